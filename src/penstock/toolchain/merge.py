"""A LoRA merged into its base: a checkpoint of its own, in the base's own form and names.

Works on the file's tensors, one at a time: ``W' = W + scale * B A`` in float32, rounded to the type W is stored in. A
DoRA scales each row afterwards: ``W' = m * W' / |W'|`` (Liu et al. 2024, arXiv 2402.09353).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from penstock.checkpoints.adapters import floats, locate_adapter, open_peft, peft_kind
from penstock.checkpoints.folder import Checkpoint
from penstock.checkpoints.jsonfile import read_json
from penstock.checkpoints.lora import LoraModule, read_lora
from penstock.checkpoints.patterns import fill, pattern
from penstock.checkpoints.source import Array, WeightSource, shown
from penstock.errors import CheckpointError, ConfigError, UnsupportedError
from penstock.models.gguf import KEY as GGUF
from penstock.models.registry import resolve
from penstock.models.rules import Rule, Transpose
from penstock.toolchain.write_safetensors import Entry, write

FLOATS: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16),
}  # fmt: skip
MAX_RANK = 1 << 14
CHUNK = 2048
COPIED = frozenset({".json", ".txt", ".model", ".jinja", ".tiktoken", ".md", ".vocab", ".bpe", ""})
MAX_COPY = 200_000_000  # bytes


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge made: files of weights, how many tensors the adapter changed, of how many."""

    folder: Path
    files: tuple[Path, ...]
    changed: int
    total: int


@dataclass(frozen=True, slots=True)
class _Change:
    """What becomes of one tensor. ``source`` is the base's tensor it starts from, ``saved`` the adapter's in its place.

    ``transposed``: the file holds [k, n].
    """

    source: str
    module: LoraModule | None = None
    transposed: bool = False
    saved: str = ""


def merge(
    base: str | Path,
    adapter: str | Path,
    output: str | Path,
    *,
    dtype: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Merged:
    """Write ``base`` with the LoRA ``adapter`` merged into it to the new folder ``output``.

    ``dtype`` is that of the tensors which the adapter changes (auto: as the base has them). ``progress`` is called with
    (tensors done, all). Raises ``ConfigError`` for a folder that is not empty or an adapter that is no LoRA,
    ``CheckpointError`` for what the files hold. Nothing is left behind when it fails.
    """
    if dtype not in ("auto", *FLOATS):
        raise ConfigError(f"dtype must be auto, {', '.join(FLOATS)}, got {dtype!r}")
    target = Path(output).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target}: exists and is not empty; give a new folder")
    folder, file = locate_adapter(adapter)
    config = read_json(folder / "adapter_config.json") if (folder / "adapter_config.json").exists() else {}
    if peft_kind(folder, config) != "LORA":
        raise ConfigError(f"{folder}: {config['peft_type']} adds to the cache, not to weights: it cannot be merged")
    partial = target.with_name(target.name + ".partial")
    with Checkpoint.open(base) as checkpoint, closing(open_peft(folder, file)) as source:
        merger = _Merger(checkpoint, source, config, folder, dtype)
        try:
            partial.mkdir(parents=True)
            made = merger.write(partial, progress or (lambda done, total: None))
            if target.exists():
                target.rmdir()
            partial.rename(target)
        except FileExistsError as error:
            raise ConfigError(f"{partial} exists, left by a merge that was stopped: remove it") from error
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return replace(made, folder=target, files=tuple(target / file.name for file in made.files))


class _Merger:
    def __init__(
        self, checkpoint: Checkpoint, adapter: WeightSource, config: Mapping[str, Any], folder: Path, dtype: str
    ) -> None:
        if GGUF in checkpoint.config:
            raise UnsupportedError(
                f"{checkpoint.path}: a GGUF's blocks cannot take a LoRA; merge into the original model"
            )
        assert checkpoint.weights is not None  # opened with weights
        self.checkpoint, self.adapter, self.folder, self.dtype = checkpoint, adapter, folder, dtype
        self.weights: WeightSource = checkpoint.weights
        family = resolve(checkpoint.config)
        self.rules = family.rules(family.architecture(checkpoint.config), checkpoint.config)
        self.names = frozenset(self.weights.names())
        self.untied = False
        self.changes: dict[str, _Change] = {}
        file = read_lora(adapter, config, folder, MAX_RANK)
        for module, lora in file.modules.items():
            name, change = self._place(f"{module}.weight", lora.experts)
            if name in self.changes:
                raise CheckpointError(f"{folder}: the factors of {shown(name)} come twice")
            self.changes[name] = replace(change, module=lora)
        for wanted, saved in file.saved.items():
            name, change = self._place(wanted)
            if self.adapter.info(saved).shape != self.weights.info(change.source).shape:
                raise CheckpointError(f"{folder}: {shown(saved)} has another shape than the base's {change.source}")
            self.changes[name] = replace(self.changes.get(name, change), saved=saved)
        for name, change in self.changes.items():
            self._check(name, change)
        if dtype != "auto":
            self._widen()

    def write(self, folder: Path, progress: Callable[[int, int], None]) -> Merged:
        names = [*self.weights.names(), *(name for name in self.changes if name not in self.names)]
        entries = [self._entry(name) for name in names]
        done = 0

        def tensor(name: str) -> Array:
            nonlocal done
            array = self._tensor(name)
            done += 1
            progress(done, len(names))
            return array

        files = write(folder, entries, tensor)
        self._copy(folder)
        changed = sum(bool(change.module or change.saved) for change in self.changes.values())
        return Merged(folder, tuple(files), changed, len(names))

    def _place(self, wanted: str, experts: int = 0) -> tuple[str, _Change]:
        """The base's tensor that PEFT calls ``wanted``; a tied output projection becomes a tensor of its own.

        ``experts``: how many the layer must have where it is one of an expert, 0 if that is open."""
        for rule in self.rules:
            values = pattern(rule.source).match(wanted)
            if values is None or not rule.targets:
                continue
            there = self._there(rule, values)
            if there is not None:
                if experts and self._there(rule, {**values, rule.stack: str(experts)}):
                    raise CheckpointError(
                        f"{self.folder}: {shown(wanted)} is one of {experts} experts, {self.checkpoint.path} has more: "
                        "the adapter belongs to another base model"
                    )
                return there.source, there
            shared = self._tied(rule)
            if shared:
                self.untied = True
                return wanted, _Change(shared)
            quantised = wanted.removesuffix("weight")
            if any(name.startswith(quantised) for name in self.names):
                raise UnsupportedError(
                    f"{shown(wanted)} is quantised in the base: merge the adapter into the unquantised model"
                )
        raise CheckpointError(
            f"{self.folder}: the adapter changes {shown(wanted)}, which {self.checkpoint.path} does not have: it "
            "belongs to another base model"
        )

    def _there(self, rule: Rule, values: Mapping[str, str]) -> _Change | None:
        """The file's tensor that ``rule`` means, or that another rule makes the same weight of."""
        for other in (rule, *self.rules):
            named = values if other is rule else _same_weight(rule, values, other)
            for name in pattern(other.source).names(named) if named is not None else ():
                if name in self.names:
                    return _Change(name, transposed=any(isinstance(each, Transpose) for each in other.transforms))
        return None

    def _widen(self) -> None:
        """Experts of one layer are stored alike: those beside a changed one get its type, too."""
        stacks: dict[tuple[str, ...], list[str]] = {}
        for name in self.names:
            for rule in self.rules:
                values = pattern(rule.source).match(name) if rule.stack else None
                if values is not None:
                    others = (str(value) for key, value in values.items() if key != rule.stack)
                    stacks.setdefault((rule.source, *others), []).append(name)
                    break
        for names in stacks.values():
            if not self.changes.keys().isdisjoint(names):
                self.changes |= {name: _Change(name) for name in names if name not in self.changes}

    def _tied(self, rule: Rule) -> str:
        sources = [other.source for other in self.rules if rule.tied_to and other.targets == (rule.tied_to,)]
        return next((n for source in sources for n in pattern(source).names({}) if n in self.names), "")

    def _check(self, name: str, change: _Change) -> None:
        info = self.weights.info(change.source)
        if info.dtype not in FLOATS.values():
            raise UnsupportedError(f"{shown(name)} is stored as {info.dtype}: merge into the unquantised model")
        if change.module is None:
            return
        n, k = (info.shape[::-1] if change.transposed else info.shape) if len(info.shape) == 2 else (0, 0)
        a, b = change.module.a.shape, change.module.b.shape
        if (b[0], a[1]) != (n, k):
            raise CheckpointError(
                f"{self.folder}: {shown(name)} is {list(info.shape)} in the base, which the factors {list(a)} and "
                f"{list(b)} do not fit: the adapter belongs to another base model"
            )

    def _entry(self, name: str) -> Entry:
        change = self.changes.get(name)
        info = self.weights.info(change.source if change is not None else name)
        stored = FLOATS[self.dtype] if change is not None and self.dtype != "auto" else info.dtype
        return Entry(name, stored, info.shape)

    def _tensor(self, name: str) -> Array:
        change = self.changes.get(name)
        if change is None:
            found = np.array(self.weights.get(name))
            self.weights.release(name)
            return found
        stored = self._entry(name).dtype
        if change.saved:
            whole: Array = floats(self.adapter, change.saved)
        else:
            whole = self.weights.get(change.source)
        if change.module is None:
            found = whole.astype(stored)
            self.weights.release(change.source)
            return found
        out = np.empty(whole.shape, stored)
        rows, into = (whole.T, out.T) if change.transposed else (whole, out)
        for start in range(0, rows.shape[0], CHUNK):
            part = slice(start, start + CHUNK)
            into[part] = _merged(rows[part].astype(np.float32), change.module, part).astype(stored)
        self.weights.release(change.source)
        return out

    def _copy(self, folder: Path) -> None:
        """Configuration, tokenizer, templates: everything small beside the weights that is data, not code."""
        for path in sorted(self.checkpoint.path.iterdir()):
            kept = path.is_file() and path.suffix in COPIED and not path.name.endswith(".index.json")
            if kept and path.stat().st_size <= MAX_COPY and not path.name.startswith((".", "adapter_")):
                shutil.copyfile(path, folder / path.name)
        if self.untied:
            config = {**read_json(folder / "config.json"), "tie_word_embeddings": False}
            (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _same_weight(rule: Rule, values: Mapping[str, str], other: Rule) -> Mapping[str, str] | None:
    """The variables with which ``other`` makes what ``rule`` makes with ``values``; None where it makes another one."""
    if len(rule.targets) != 1 or len(other.targets) != 1 or bool(rule.stack) != bool(other.stack):
        return None
    found = pattern(other.targets[0], other.source).match(fill(rule.targets[0], values))
    return found if found is None or not rule.stack else {**found, other.stack: values[rule.stack]}


def _merged(rows: Array, module: LoraModule, part: slice) -> Array:
    """Rows ``part`` of the merged weight, in float32."""
    rows = rows + np.float32(module.scale) * (module.b[part] @ module.a)
    if module.magnitude is not None:
        length = np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1, keepdims=True))
        rows = (rows * (module.magnitude[part, None] / length)).astype(np.float32)
    return rows
