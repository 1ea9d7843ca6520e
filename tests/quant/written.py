"""Whole checkpoints in a stored form, made of plain ones."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from penstock.checkpoints.folder import Checkpoint
from penstock.checkpoints.patterns import pattern
from penstock.models.registry import resolve
from penstock.models.rules import Transpose
from tests.checkpoints.files import write as write_safetensors
from tests.quant.forms import F32, Form, Tensors

PLAIN = ("embed", "positions", "head", "router", "shared_gate")
"""Parts of canonical names of matrices that tools leave as they are."""


def linears(source: Path) -> dict[str, bool]:
    """The linears of a checkpoint by the names of their tensors, and whether they lie there as [k, n]."""
    found: dict[str, bool] = {}
    with Checkpoint.open(source) as checkpoint:
        assert checkpoint.weights is not None
        family = resolve(checkpoint.config)
        rules = family.rules(family.architecture(checkpoint.config), checkpoint.config)
        for name in checkpoint.weights.names():
            rule = next((r for r in rules if r.targets and pattern(r.source).match(name) is not None), None)
            if rule is None or len(checkpoint.weights.info(name).shape) != 2 or not name.endswith(".weight"):
                continue
            if not any(part in PLAIN for target in rule.targets for part in target.split(".")):
                found[name] = any(isinstance(t, Transpose) for t in rule.transforms)
    return found


def write_checkpoint(
    source: Path,
    target: Path,
    form: Form,
    *,
    change: Callable[[str, F32], F32] = lambda name, w: w,
    settings: Mapping[str, Any] | None = None,
    plain: str = "",
    parts: Mapping[str, Form] | None = None,
    files: int = 1,
) -> dict[str, F32]:
    """``source`` with its linears in ``form``, the rest as it was; the numbers that the linears stand for.

    ``change`` is applied to every tensor first; ``settings`` go over config.json; linears that the expression ``plain``
    finds stay plain; those that one in ``parts`` finds are in that form. The tensors fill ``files`` files.
    """
    target.mkdir(parents=True, exist_ok=True)
    tensors: Tensors = {}
    numbers: dict[str, F32] = {}
    found = linears(source)
    with Checkpoint.open(source) as checkpoint:
        assert checkpoint.weights is not None
        config = dict(checkpoint.config)
        for name in checkpoint.weights.names():
            array = change(name, np.array(checkpoint.weights.get(name)))
            chosen = next((f for text, f in (parts or {}).items() if re.search(text, name)), form)
            turned = found.get(name, False)
            left_out = name not in found or (plain and re.search(plain, name))
            if left_out or not chosen.fits(*(array.T if turned else array).shape):
                tensors[name] = array
                continue
            written, numbers[name] = chosen.write((array.T if turned else array).astype(np.float32))
            if turned and not chosen.config:
                written = {"weight": written["weight"].T}
            stem = name.removesuffix("weight")
            tensors |= {stem + part: np.ascontiguousarray(a) for part, a in written.items()}
    for other in ("generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        if (source / other).exists():
            shutil.copy(source / other, target)
    config |= {"quantization_config": dict(form.config), **(settings or {})}
    (target / "config.json").write_text(json.dumps(config, indent=1))
    _write_files(target, tensors, files)
    return numbers


def _write_files(target: Path, tensors: Tensors, files: int) -> None:
    if files == 1:
        write_safetensors(target / "model.safetensors", tensors)
        return
    where = {name: f"model-{i % files + 1:05}-of-{files:05}.safetensors" for i, name in enumerate(tensors)}
    for file in set(where.values()):
        write_safetensors(target / file, {name: a for name, a in tensors.items() if where[name] == file})
    (target / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
