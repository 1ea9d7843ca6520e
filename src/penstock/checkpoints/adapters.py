"""Adapters on disk: which kind a folder or file is, and its tensors as plain data that fits one model.

adapter_config.json + adapter_model.safetensors|bin       PEFT: LORA, PREFIX_TUNING, PROMPT_TUNING, P_TUNING
config.json with pre_seq_len + weights with prefix_encoder.*                ChatGLM's P-Tuning v2
pre_caches.npy                                                              PaddleNLP's prefix caches
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from penstock.checkpoints.jsonfile import read_json
from penstock.checkpoints.readers import open_file, open_weights
from penstock.checkpoints.source import Array, WeightSource, shown
from penstock.errors import CheckpointError, UnsupportedError, nearest
from penstock.models.program import Program
from penstock.models.rules import Rule
from penstock.types import F32

PEFT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
PROMPT_KINDS = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")
PRE_CACHES = "pre_caches.npy"
CHATGLM = "prefix_encoder."
MAX_ROWS = 1 << 16
MAX_BYTES = 1 << 34


@dataclass(frozen=True, slots=True)
class Base:
    """The model that an adapter is for: its program, and how its family names tensors in original checkpoints."""

    program: Program
    rules: Sequence[Rule]


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """Factors by canonical weight name: A [r, k], B [n, r], scale. ``rank`` is the largest r."""

    factors: Mapping[str, tuple[F32, F32, float]]
    rank: int


@dataclass(frozen=True, slots=True)
class PrefixAdapter:
    """Keys and values of each layer, [rows, kv_heads * head_dim] each, as they lie in the cache (not rotated).

    ``shifts``: the first token behind them has position ``rows``, not 0; None: as the model's family does it.
    """

    layers: tuple[tuple[F32, F32], ...]
    shifts: bool | None

    @property
    def rows(self) -> int:
        return len(self.layers[0][0])


@dataclass(frozen=True, slots=True)
class PromptAdapter:
    """Embeddings [rows, width] that stand before those of the prompt's tokens."""

    embeds: F32


AdapterData = LoraAdapter | PrefixAdapter | PromptAdapter


def open_adapter(path: str | Path, base: Base, max_rank: int) -> AdapterData:
    """Read and check the adapter at ``path`` (a folder, or a file in it) for the model ``base``.

    Raises ``CheckpointError`` for what is damaged or another model's, ``UnsupportedError`` for a kind or an option that
    is not served live; the message says which, and what to do.
    """
    from penstock.checkpoints import lora, lora_targets, prefix

    folder, file = locate_adapter(path)
    if file is not None and file.suffix == ".npy":
        return prefix.read_pre_caches(file, base.program)
    if (folder / "adapter_config.json").exists():
        config = read_json(folder / "adapter_config.json")
        kind = peft_kind(folder, config)
        with closing(open_peft(folder, file)) as source:
            if kind == "LORA":
                return lora_targets.live(lora.read_lora(source, config, folder, max_rank), base)
            return prefix.read_peft(source, config, folder, base.program)
    if (folder / PRE_CACHES).exists():
        return prefix.read_pre_caches(folder / PRE_CACHES, base.program)
    return _chatglm(folder, base.program)


def peft_kind(folder: Path, config: Mapping[str, Any]) -> str:
    """The method of a PEFT adapter, one of those that penstock reads."""
    kind = config.get("peft_type")
    if kind not in ("LORA", *PROMPT_KINDS):
        known = ("LORA", *PROMPT_KINDS)
        raise UnsupportedError(
            f"{folder}: peft_type {shown(str(kind), 40)!r} is not supported{nearest(str(kind), known)}; "
            f"known: {', '.join(known)}"
        )
    return str(kind)


def open_peft(folder: Path, file: Path | None = None) -> WeightSource:
    """The tensors of a PEFT adapter."""
    for name in (file,) if file is not None else tuple(folder / name for name in PEFT_FILES):
        if name.exists() or name.is_symlink():
            return open_file(name)
    raise CheckpointError(f"{folder}: no {' or '.join(PEFT_FILES)} here; download the whole adapter")


def floats(source: WeightSource, name: str) -> F32:
    """A tensor as float32, checked to be finite floating-point numbers of a sane size."""
    info = source.info(name)
    if info.dtype.kind != "f" and info.dtype.name not in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        raise CheckpointError(f"{info.file}: {shown(name)} holds {info.dtype}, not floating-point numbers")
    if info.nbytes > MAX_BYTES:
        raise CheckpointError(f"{info.file}: {shown(name)} has {info.nbytes:,} bytes, too many for an adapter")
    found: Array = np.array(source.get(name), np.float32, order="C")
    source.release(name)
    if not np.isfinite(found).all():
        raise CheckpointError(f"{info.file}: {shown(name)} has numbers that are not finite")
    return found


def locate_adapter(path: str | Path) -> tuple[Path, Path | None]:
    """The adapter's folder, and the file in it if one was named."""
    place = Path(path).expanduser()
    try:
        if place.is_dir():
            return place, None
        if place.is_file():
            return place.parent, place
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(path)[:200]!r}: not a path that can be read ({error}); check it") from error
    raise CheckpointError(f"{place}: no such adapter; give its folder (that of adapter_config.json or pre_caches.npy)")


def _chatglm(folder: Path, program: Program) -> PrefixAdapter:
    from penstock.checkpoints import prefix

    config = folder / "config.json"
    settings = read_json(config) if config.exists() else {}
    source: WeightSource | None = None
    if config.exists() or any(folder.glob("*.bin")) or any(folder.glob("*.safetensors")):
        source, _ = open_weights(folder)
        if any(CHATGLM in name for name in source.names()):
            with closing(source):
                return prefix.read_chatglm(source, settings, folder, program)
        source.close()
    raise CheckpointError(
        f"{folder}: this is no adapter: neither adapter_config.json (PEFT), nor {PRE_CACHES} (PaddleNLP), nor weights "
        f"with {CHATGLM}* (ChatGLM's P-Tuning)"
    )
