"""Safetensors, read by ourselves: every size and offset is checked against the file before it is used.

Layout (https://huggingface.co/docs/safetensors, "Format")::

    | 8 bytes: N, little-endian | N bytes: JSON header | data ........................... end of file |
                                  {"name": {"dtype": "BF16", "shape": [4, 8], "data_offsets": [0, 64]}, …}

Offsets count from the start of the data. Tensors must tile the data: no overlap, no hole, nothing after the last.
Python's integers do not overflow, so the products and sums below are exact whatever the file claims.
"""

from __future__ import annotations

import struct
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from penstock.checkpoints.jsonfile import parse
from penstock.checkpoints.source import Array, Closing, MappedFile, TensorInfo, damaged, shown
from penstock.errors import UnsupportedError

MAX_HEADER = 100_000_000  # bytes, as in the reference implementation
MAX_RANK = 16
MAX_ELEMENTS = 1 << 59  # also without the sizes that are 0: an array library multiplies all of them

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


class SafetensorsFile(Closing):
    """One ``.safetensors`` file as a `WeightSource`. Opening it reads and checks the whole header, and no data."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = MappedFile(path)
        try:
            self._start, header = _header(self._file)
            self.metadata = _metadata(path, header)
            self._infos, self._offsets = _tensors(path, header, self._file.size - self._start)
        except BaseException:
            self._file.close()
            raise

    def names(self) -> list[str]:
        return list(self._infos)

    def info(self, name: str) -> TensorInfo:
        return self._infos[name]

    def get(self, name: str) -> Array:
        info = self._infos[name]
        return self._file.array(self._start + self._offsets[name], info.dtype, info.shape)

    def release(self, name: str) -> None:
        self._file.release(self._start + self._offsets[name], self._infos[name].nbytes)

    def close(self) -> None:
        self._file.close()


def _header(file: MappedFile) -> tuple[int, dict[str, Any]]:
    """Where the data starts, and the parsed header."""
    path, size = file.path, file.size
    if size < 8:
        raise damaged(path, f"{size} bytes is too short for a safetensors file")
    (length,) = struct.unpack("<Q", file.bytes_at(0, 8))
    if length > MAX_HEADER:
        raise damaged(path, f"the header claims {length:,} bytes, above the limit of {MAX_HEADER:,}")
    if length > size - 8:
        raise damaged(path, f"the header claims {length:,} bytes, the file holds {size - 8:,} after it begins")
    raw = file.bytes_at(8, length)
    if not raw.startswith(b"{"):
        raise damaged(path, "this is not a safetensors file (its header does not begin with '{')")
    try:
        header = parse(raw, unique=True)
    except ValueError as error:
        raise damaged(path, f"the header is not valid JSON ({error})") from error
    if not isinstance(header, dict):
        raise damaged(path, "the header is not a JSON object")
    return 8 + length, header


def _metadata(path: Path, header: dict[str, Any]) -> dict[str, str]:
    metadata = header.pop("__metadata__", None)
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise damaged(path, "__metadata__ in the header is not a map of strings")
    return metadata


def _tensors(path: Path, header: dict[str, Any], room: int) -> tuple[dict[str, TensorInfo], dict[str, int]]:
    """Facts and data offset of each tensor, in the order of the data; checks that together they tile ``room`` bytes."""
    spans = [_tensor(path, name, entry, room) for name, entry in header.items()]
    spans.sort(key=lambda span: (span[0], span[1]))
    end = 0
    for start, stop, info in spans:
        if start != end:
            fault = "overlaps the one before it" if start < end else f"leaves a hole of {start - end:,} bytes before it"
            raise damaged(path, f"tensor {_show(info.name)} {fault}")
        end = stop
    if end != room:
        raise damaged(path, f"the header describes {end:,} bytes of data, the file holds {room:,}")
    return {info.name: info for _, _, info in spans}, {info.name: start for start, _, info in spans}


def _tensor(path: Path, name: str, entry: object, room: int) -> tuple[int, int, TensorInfo]:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise damaged(path, f"tensor {_show(name)} has no dtype, shape and data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str):
        raise damaged(path, f"tensor {_show(name)} has no dtype name")
    if kind not in DTYPES:
        raise UnsupportedError(
            f"{path}: tensor {_show(name)} has dtype {_show(kind)}, known are {', '.join(DTYPES)}; "
            "use a checkpoint in one of them"
        )
    if not _sizes(shape) or len(shape) > MAX_RANK or prod(size for size in shape if size) > MAX_ELEMENTS:
        raise damaged(path, f"tensor {_show(name)} has no sane shape")
    if not _sizes(offsets) or len(offsets) != 2:
        raise damaged(path, f"tensor {_show(name)} has no sane data_offsets")
    start, stop = offsets
    if start > stop or stop > room:
        raise damaged(path, f"tensor {_show(name)} lies at bytes {start}..{stop} of {room:,} bytes of data")
    need = prod(shape) * DTYPES[kind].itemsize
    if need != stop - start:
        raise damaged(path, f"tensor {_show(name)} ({kind} {shape}) does not fill its {stop - start:,} bytes")
    return start, stop, TensorInfo(name, DTYPES[kind], tuple(shape), need, path)


def _sizes(value: object) -> bool:
    """A list of non-negative integers below 2^63."""
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 1 << 63 for size in value)


def _show(name: str) -> str:
    return f"'{shown(name)}'"
