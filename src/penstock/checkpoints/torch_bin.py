"""``pytorch_model.bin`` without torch: the tensors of ``torch.save`` as views of the file.

A zip (torch 1.6 and later) whose members are stored as they are::

    name/data.pkl     the dictionary, its storages by key        name/data/0, 1 …  their bytes
    name/byteorder    "little"

or, before, pickles one after the other: a magic number, a version, facts of the machine, the dictionary, the keys of
its storages; then for each an u64 count and its bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from penstock.checkpoints.source import Array, Closing, MappedFile, TensorInfo, damaged, shown, some
from penstock.checkpoints.unpickle import BrokenError, RefusedError, Storage, Tensor, load
from penstock.errors import UnsupportedError

MAX_PICKLE = 1 << 28  # bytes
MAX_MEMBERS = 1 << 20
MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
WRAPPERS = ("state_dict", "model", "module", "model_state_dict")

DTYPES: dict[str, np.dtype[Any]] = {
    "float64": np.dtype("<f8"), "float32": np.dtype("<f4"), "float16": np.dtype("<f2"), "int64": np.dtype("<i8"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16), "int32": np.dtype("<i4"), "int16": np.dtype("<i2"), "bool": np.dtype("?"),
    "int8": np.dtype("i1"), "uint8": np.dtype("u1"), "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}  # fmt: skip
STORAGES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32",
    "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "Untyped": "uint8",
}  # fmt: skip


class TorchFile(Closing):
    """One file of ``torch.save`` as a `WeightSource`. Opening it reads its pickle and checks every tensor's place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = MappedFile(path)
        try:
            found, places = _contents(self._file)
            tensors = _named(path, found)
            self._tensors = {name: _placed(path, name, tensor, places) for name, tensor in tensors.items()}
        except BaseException:
            self._file.close()
            raise

    def names(self) -> list[str]:
        return list(self._tensors)

    def info(self, name: str) -> TensorInfo:
        _, dtype, tensor, _ = self._tensors[name]
        return TensorInfo(name, dtype, tensor.size, prod(tensor.size) * dtype.itemsize, self.path)

    def get(self, name: str) -> Array:
        start, dtype, tensor, span = self._tensors[name]
        flat = self._file.array(start, dtype, (span,))
        if not prod(tensor.size):
            return np.empty(tensor.size, dtype)
        strides = [stride * dtype.itemsize for stride in tensor.stride]
        view: Array = np.ndarray(tensor.size, dtype, flat.view(np.uint8), 0, strides)
        return view if view.flags.c_contiguous else np.ascontiguousarray(view)

    def release(self, name: str) -> None:
        start, dtype, _, span = self._tensors[name]
        self._file.release(start, span * dtype.itemsize)

    def close(self) -> None:
        self._file.close()


Place = tuple[int, int]
"""Start and length of a storage in the file, in bytes."""


def _contents(file: MappedFile) -> tuple[Any, Mapping[str, Place]]:
    start = file.bytes_at(0, min(512, file.size))
    if start.startswith(b"PK\3\4"):
        return _zip(file)
    if start.startswith(b"\x80"):
        return _stream(file)
    if start[257:262] == b"ustar":
        raise UnsupportedError(f"{file.path}: a tar of torch before 0.1.10; load it with torch, save it as safetensors")
    raise damaged(file.path, "this is not a file of torch.save")


def _unpickled(path: Path, data: bytes, at: int = 0) -> tuple[Any, int]:
    try:
        return load(data, at)
    except RefusedError as error:
        raise UnsupportedError(
            f"{path}: the file asks for {error}, which no checkpoint of weights needs: it is not loaded. Do not use it "
            "unless you trust its origin; then save its weights as safetensors"
        ) from error
    except BrokenError as error:
        raise damaged(path, f"its pickle cannot be read: {error}") from error


# --------------------------------------------------------------------------------------------------------------- zip


def _zip(file: MappedFile) -> tuple[Any, Mapping[str, Place]]:
    import zipfile

    try:
        with zipfile.ZipFile(file.path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error, UnicodeDecodeError) as error:
        raise damaged(file.path, f"its directory cannot be read ({shown(str(error), 80)})") from error
    if len(members) > MAX_MEMBERS:
        raise damaged(file.path, f"{len(members):,} members are more than any checkpoint has")
    places: dict[str, Place] = {}
    for member in members:
        if member.is_dir():
            continue
        if member.compress_type or member.flag_bits & 1 or member.compress_size != member.file_size:
            raise UnsupportedError(
                f"{file.path}: '{shown(member.filename)}' is compressed or encrypted, which torch.save does not do"
            )
        if member.filename in places:
            raise damaged(file.path, f"'{shown(member.filename)}' appears twice")
        places[member.filename] = _member(file, member.header_offset, member.file_size)
    pickles = [name for name in places if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise damaged(file.path, "there is no data.pkl in it")
    root = pickles[0].removesuffix("data.pkl")
    order = places.get(f"{root}byteorder")
    if order is not None and file.bytes_at(order[0], min(order[1], 16)).strip() != b"little":
        raise UnsupportedError(f"{file.path}: saved on a big-endian machine; save it again on a usual one")
    start, size = places[pickles[0]]
    if size > MAX_PICKLE:
        raise damaged(file.path, f"a pickle of {size:,} bytes is more than any checkpoint has")
    found, _ = _unpickled(file.path, file.bytes_at(start, size))
    begin = f"{root}data/"
    return found, {name.removeprefix(begin): place for name, place in places.items() if name.startswith(begin)}


def _member(file: MappedFile, header: int, size: int) -> Place:
    """Where a member's bytes are, after its local header of 30 bytes, its name and an extra field (for alignment)."""
    if not 0 <= header <= file.size - 30:
        raise damaged(file.path, f"a member begins at {header:,}")
    fixed = file.bytes_at(header, 30)
    if fixed[:4] != b"PK\3\4":
        raise damaged(file.path, f"no member at {header:,}")
    start = header + 30 + sum(struct.unpack_from("<HH", fixed, 26))
    if size < 0 or start + size > file.size:
        raise damaged(file.path, f"a member at {header:,} ends beyond the file")
    return start, size


# ------------------------------------------------------------------------------------------------------------ legacy


def _stream(file: MappedFile) -> tuple[Any, Mapping[str, Place]]:
    head = file.bytes_at(0, min(file.size, MAX_PICKLE))
    parts: list[Any] = []
    at = 0
    for _ in range(5):
        part, at = _unpickled(file.path, head, at)
        parts.append(part)
        if parts[0] != MAGIC:
            raise damaged(file.path, "this is not a file of torch.save")
    _, version, machine, found, keys = parts
    if version != PROTOCOL or not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise UnsupportedError(f"{file.path}: an old file of another version or machine; save it again with torch")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(set(keys)) != len(keys):
        raise damaged(file.path, "its list of storages is none")
    sizes = _item_sizes(found)
    places: dict[str, Place] = {}
    for key in keys:
        if key not in sizes or file.size - at < 8:
            raise damaged(file.path, "its storages end early")
        (count,) = struct.unpack("<Q", file.bytes_at(at, 8))
        nbytes = count * sizes[key]
        if nbytes > file.size - at - 8:
            raise damaged(file.path, f"a storage of {count:,} numbers goes beyond the file")
        places[key] = (at + 8, nbytes)
        at += 8 + nbytes
    return found, places


def _item_sizes(found: Any) -> dict[str, int]:
    """Bytes of a number in each storage that tensors of the top dictionary (or one inside it) use."""
    sizes: dict[str, int] = {}
    for holder in [found, *(found.values() if isinstance(found, dict) else ())]:
        for value in holder.values() if isinstance(holder, dict) else ():
            if isinstance(value, Tensor):
                dtype = _storage_dtype(value.storage)
                sizes[value.storage.key] = 1 if dtype is None else dtype.itemsize
    return sizes


# ----------------------------------------------------------------------------------------------------------- tensors


def _named(path: Path, found: Any) -> dict[str, Tensor]:
    """The tensors of the dictionary, which may be inside another one; entries that are no tensors are not weights."""
    for _ in range(3):
        if not isinstance(found, dict):
            raise UnsupportedError(f"{path}: holds no dictionary of weights; save the model's state_dict")
        tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        inner = [found[name] for name in WRAPPERS if isinstance(found.get(name), dict)]
        if tensors or not inner:
            break
        found = inner[0]
    odd = [str(name) for name in tensors if not isinstance(name, str)]
    if odd or not tensors:
        raise UnsupportedError(f"{path}: holds no named weights {some(odd)}; save the model's state_dict")
    return tensors


def _storage_dtype(storage: Storage) -> np.dtype[Any] | None:
    kind = storage.kind.rpartition(".")[2].removesuffix("Storage")
    return DTYPES[STORAGES[kind]] if kind in STORAGES else None


def _placed(
    path: Path, name: str, tensor: Tensor, places: Mapping[str, Place]
) -> tuple[int, np.dtype[Any], Tensor, int]:
    """First byte, type and span (numbers from the first to the last) of a tensor, all inside its storage."""
    kept = _storage_dtype(tensor.storage)
    dtype = DTYPES.get(tensor.dtype.removeprefix("torch.")) if tensor.dtype else kept
    if kept is None or dtype is None:
        kind = shown(tensor.dtype or tensor.storage.kind)
        raise UnsupportedError(f"{path}: tensor '{shown(name)}' is of the type {kind}, an unknown one")
    place = places.get(tensor.storage.key)
    if place is None:
        raise damaged(path, f"the storage of tensor '{shown(name)}' is not there")
    room = min(place[1], tensor.storage.numel * kept.itemsize) // dtype.itemsize
    empty = 0 in tensor.size
    span = 0 if empty else 1 + sum((n - 1) * stride for n, stride in zip(tensor.size, tensor.stride, strict=True))
    if tensor.offset + span > room or (not empty and prod(tensor.size) > room):
        raise damaged(path, f"tensor '{shown(name)}' {list(tensor.size)} does not fit its storage of {room:,} numbers")
    if empty and prod(n for n in tensor.size if n) > 1 << 59:
        raise damaged(path, f"tensor '{shown(name)}' has no sane shape")
    return place[0] + tensor.offset * dtype.itemsize, dtype, tensor, span
