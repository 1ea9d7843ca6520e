"""No family knows of LoRA: for each, factors under the names of its original checkpoint act live as they do merged."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.checkpoints.adapters import Base, LoraAdapter, open_adapter
from penstock.checkpoints.folder import Checkpoint
from penstock.checkpoints.patterns import pattern
from penstock.models.architecture import Architecture
from penstock.models.positions import bidirectional_boundary, token_positions
from penstock.models.registry import resolve
from penstock.models.rules import Transpose
from penstock.toolchain.merge import merge
from penstock.types import F32
from tests.adapters.some import write_peft
from tests.families.test_golden import FAMILIES
from tests.harness import Runner, open_arch, open_runner
from tests.helpers import golden

RANK = 3


def matrices(model: Path) -> dict[str, tuple[int, int]]:
    """Modules of the checkpoint that are linears, those of experts too, with [n, k] as a LoRA sees them."""
    found: dict[str, tuple[int, int]] = {}
    with Checkpoint.open(model) as checkpoint:
        assert checkpoint.weights is not None
        family = resolve(checkpoint.config)
        rules = family.rules(family.architecture(checkpoint.config), checkpoint.config)
        for name in checkpoint.weights.names():
            shape = checkpoint.weights.info(name).shape
            rule = next((r for r in rules if r.targets and pattern(r.source).match(name) is not None), None)
            if len(shape) != 2 or rule is None or not name.endswith(".weight"):
                continue
            if not any(target.startswith(("embed.", "positions.")) for target in rule.targets):
                turned = any(isinstance(t, Transpose) for t in rule.transforms)
                found[name.removesuffix(".weight")] = shape[::-1] if turned else shape
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_live_is_merged(name: str, tmp_path: Path) -> None:
    model = golden(name) / "ckpt"
    modules = matrices(model)
    if name.startswith("baichuan2"):  # its head is normalised after loading
        del modules["lm_head"]
    assert len(modules) >= 8
    rng = np.random.default_rng(0)
    tensors = {}
    for module, (n, k) in modules.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = (rng.standard_normal((RANK, k)) / k**0.5).astype(
            np.float32
        )
        tensors[f"base_model.model.{module}.lora_B.weight"] = (rng.standard_normal((n, RANK)) * 0.1).astype(np.float32)
    adapter = write_peft(tmp_path / "a", tensors, {"r": RANK, "lora_alpha": 2 * RANK})
    merge(model, adapter, tmp_path / "out", dtype="float32")
    arch = open_arch(model)
    ids = [int(t) for t in np.load(golden(name) / "golden.npz")["p1_ids"]]
    with open_runner(tmp_path / "out", "torch") as runner:
        merged = prefill(runner, ids, arch)
    with Checkpoint.open(model) as checkpoint:
        family = resolve(checkpoint.config)
        rules = family.rules(family.architecture(checkpoint.config), checkpoint.config)
    with open_runner(model, "native") as runner, closing(runner.executor):
        data = open_adapter(adapter, Base(runner.executor.program, rules), 64)
        assert isinstance(data, LoraAdapter)
        plain = prefill(runner, ids, arch)
        runner.executor.load_adapter(1, data.factors)
        live = prefill(runner, ids, arch, adapters=np.array([1], np.int32))
    scale = max(1.0, float(merged.std()))
    assert np.abs(live - merged).max() < 2e-4 * scale
    assert np.abs(plain - merged).max() > 1e-2 * scale


def prefill(runner: Runner, ids: list[int], arch: Architecture, **more: Any) -> F32:
    boundary = bidirectional_boundary(arch, ids)
    seq = runner.add(ids, token_positions(arch, ids, 0, len(ids)), boundary)
    found = runner.step([(seq, len(ids))], **more)[0][0]
    runner.drop(seq)
    return found
