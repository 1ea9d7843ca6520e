"""Safetensors, written as a stream: headers first, since shapes are known, then one tensor after the other."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from penstock.checkpoints.safetensors import DTYPES
from penstock.checkpoints.source import Array
from penstock.errors import CheckpointError

SHARD_BYTES = 5 << 30
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor to write: its place in the file is known before its numbers are."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def write(
    folder: Path, entries: Sequence[Entry], tensor: Callable[[str], Array], shard_bytes: int = SHARD_BYTES
) -> list[Path]:
    """Write ``entries`` into ``folder`` as ``model.safetensors``, or numbered shards and their index.

    ``tensor`` gives the numbers of one at a time, in order. Returns the files written.
    """
    shards = _shards(entries, shard_bytes)
    count = len(shards)
    names = ["model.safetensors"] if count == 1 else [
        f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)
    ]  # fmt: skip
    for name, shard in zip(names, shards, strict=True):
        with (folder / name).open("wb") as file:
            _write_file(file, shard, tensor)
    files = [folder / name for name in names]
    if count > 1:
        where = {entry.name: name for name, shard in zip(names, shards, strict=True) for entry in shard}
        total = sum(entry.nbytes for entry in entries)
        index = {"metadata": {"total_size": total}, "weight_map": where}
        files.append(folder / "model.safetensors.index.json")
        files[-1].write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return files


def _shards(entries: Iterable[Entry], most: int) -> list[list[Entry]]:
    """Entries in order, cut where a file would grow past ``most`` bytes."""
    shards: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        if shards[-1] and size + entry.nbytes > most:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.nbytes
    return shards


def _write_file(file: BinaryIO, entries: Sequence[Entry], tensor: Callable[[str], Array]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for entry in entries:
        if entry.dtype not in NAMES:
            raise CheckpointError(f"{entry.name}: {entry.dtype} cannot be written as safetensors")
        offsets = [at, at + entry.nbytes]
        header[entry.name] = {"dtype": NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": offsets}
        at += entry.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for entry in entries:
        array = tensor(entry.name)
        if array.shape != entry.shape or array.dtype != entry.dtype:
            raise ValueError(f"{entry.name}: {array.dtype} {array.shape} is not what was announced")
        file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
