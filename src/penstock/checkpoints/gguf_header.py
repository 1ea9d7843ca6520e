"""The header of a GGUF file, read by ourselves: no count, length or offset is believed before it is checked.

Layout (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), all little-endian::

    | "GGUF" | u32 version | u64 tensors | u64 entries | metadata | tensor infos | padding | data ...... |

    entry   string key, u32 type, value         string  u64 length, bytes (UTF-8)
    array   u32 type, u64 count, values         info    string name, u32 dims, u64 each, u32 type, u64 offset

Offsets count from the start of the data and must be multiples of ``general.alignment`` (32); the tensors lie in the
order of the infos, each padded to the alignment. Python's integers do not overflow.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from penstock.checkpoints.gguf_types import GgmlType, type_of
from penstock.checkpoints.source import MappedFile, damaged, shown
from penstock.errors import UnsupportedError
from penstock.quant.words import extension

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_KEY = 65_535  # bytes, as the format says
MAX_NAME = 1_024  # bytes of a tensor's name; ggml itself allows 63
MAX_ENTRIES = 1 << 16
MAX_TENSORS = 1 << 20
MAX_ITEMS = 1 << 24  # of one array
MAX_STRING = 1 << 26  # bytes of one value
MAX_ALIGNMENT = 1 << 20
MAX_ELEMENTS = 1 << 59
MAX_DIMS = 4

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
NUMPY = {
    0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "u1", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
STRING, ARRAY, BOOL = 8, 9, 7
CUT = 0xFF
SHORT = 64  # bytes of a string and its length, on average, that are looked at at once


class Strings(Sequence[str]):
    """An array of strings, decoded when asked for. What is no UTF-8 comes as surrogates.

    ``raw`` holds each string behind its length of eight bytes, which begins at ``starts``.
    """

    def __init__(self, raw: bytes, starts: NDArray[np.int64]) -> None:
        self._raw, self._starts = raw, starts

    def __len__(self) -> int:
        return len(self._starts)

    def at(self, index: int) -> bytes:
        start = int(self._starts[index])
        (length,) = struct.unpack_from("<Q", self._raw, start)
        return self._raw[start + 8 : start + 8 + length]

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.at(index).decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return iter(self.all())

    def all(self) -> list[str]:
        """All of them at once: decoded as one text that is cut at bytes which UTF-8 does not have."""
        if len(self) < 2:
            return self[:]
        raw = np.frombuffer(self._raw, np.uint8).copy()
        starts = self._starts
        keep = np.ones(raw.size, np.bool_)
        for byte in range(1, 8):
            keep[starts + byte] = False
        raw[starts] = CUT
        texts = raw[keep][1:].tobytes().decode("utf-8", "surrogateescape").split(chr(0xDC00 + CUT))
        return texts if len(texts) == len(self) else self[:]  # a string has that byte


@dataclass(frozen=True, slots=True)
class Info:
    """One tensor: ``shape`` outermost first, as numpy has it; ``offset`` from the start of the file."""

    name: str
    type: GgmlType
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    metadata: dict[str, Any]
    tensors: dict[str, Info]


def read_header(file: MappedFile) -> Header:
    """All of the header. Raises ``CheckpointError`` or, for what is sound but not known, ``UnsupportedError``."""
    cursor = _Cursor(file)
    if cursor.take(4) != MAGIC:
        raise damaged(file.path, "this is not a GGUF file (it does not begin with 'GGUF')")
    version = cursor.number("<I")
    if version & 0xFFFF == 0:
        raise UnsupportedError(f"{file.path}: a big-endian GGUF file; download the usual little-endian one")
    if version not in VERSIONS:
        raise UnsupportedError(f"{file.path}: GGUF version {version} is not known, 2 and 3 are; convert it again")
    tensors, entries = cursor.number("<Q"), cursor.number("<Q")
    for what, count, most, least in (("entries", entries, MAX_ENTRIES, 13), ("tensors", tensors, MAX_TENSORS, 32)):
        if count > most or count * least > file.size:
            raise damaged(file.path, f"the header claims {count:,} {what}")
    metadata = _metadata(cursor, entries)
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 8 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise damaged(file.path, f"an alignment of {str(alignment)[:40]!r} makes no sense")
    return Header(metadata, _tensors(cursor, tensors, alignment))


def _metadata(cursor: _Cursor, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = cursor.name("key", MAX_KEY)
        if key in metadata:
            raise damaged(cursor.path, f"the key '{shown(key)}' appears twice")
        metadata[key] = cursor.value(key)
    return metadata


def _tensors(cursor: _Cursor, count: int, alignment: int) -> dict[str, Info]:
    found: list[tuple[str, tuple[int, ...], GgmlType, int]] = []
    names: set[str] = set()
    for _ in range(count):
        name = cursor.name("tensor name", MAX_NAME)
        if name in names:
            raise damaged(cursor.path, f"tensor '{shown(name)}' appears twice")
        names.add(name)
        dims = cursor.number("<I")
        if not 1 <= dims <= MAX_DIMS:
            raise damaged(cursor.path, f"tensor '{shown(name)}' has {dims:,} dimensions")
        sizes = [cursor.number("<Q") for _ in range(dims)]
        if 0 in sizes or prod(sizes) > MAX_ELEMENTS:
            raise damaged(cursor.path, f"tensor '{shown(name)}' has no sane shape")
        kind = type_of(cursor.number("<I"), shown(name), cursor.path)
        if sizes[0] % kind.elements:
            raise damaged(
                cursor.path, f"rows of tensor '{shown(name)}' ({sizes[0]} numbers) are no whole blocks of {kind.name}"
            )
        found.append((name, tuple(reversed(sizes)), kind, cursor.number("<Q")))
    start = cursor.at + -cursor.at % alignment if found else cursor.at
    infos: dict[str, Info] = {}
    end = 0
    for name, shape, kind, offset in found:
        nbytes = prod(shape) // kind.elements * kind.nbytes
        if offset != end:
            raise damaged(cursor.path, f"tensor '{shown(name)}' lies at {offset:,} of the data, not at {end:,}")
        if start + offset + nbytes > cursor.size:
            raise damaged(
                cursor.path,
                f"tensor '{shown(name)}' ends at byte {start + offset + nbytes:,}, the file at {cursor.size:,}",
            )
        infos[name] = Info(name, kind, shape, start + offset, nbytes)
        end += nbytes + -nbytes % alignment
    return infos


class _Cursor:
    """Reads forward; every read is checked against the end of the file."""

    def __init__(self, file: MappedFile) -> None:
        self._file, self.path, self.size, self.at = file, file.path, file.size, 0

    def _advance(self, count: int, what: str) -> int:
        start = self.at
        if count > self.size - start:
            raise damaged(self.path, f"{what} of {count:,} bytes at {start:,} goes beyond the file's {self.size:,}")
        self.at = start + count
        return start

    def take(self, count: int, what: str = "the header") -> bytes:
        return self._file.bytes_at(self._advance(count, what), count)

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def string(self, what: str, most: int) -> bytes:
        length = self.number("<Q")
        if length > most:
            raise damaged(self.path, f"a {what} of {length:,} bytes, above the limit of {most:,}")
        return self.take(length, what)

    def name(self, what: str, most: int) -> str:
        try:
            name = self.string(what, most).decode()
        except UnicodeDecodeError as error:
            raise damaged(self.path, f"a {what} is not UTF-8") from error
        if not name or "\0" in name:
            raise damaged(self.path, f"a {what} is empty or holds a zero")
        return name

    def value(self, key: str) -> Any:
        kind = self.number("<I")
        if kind == STRING:
            return self.string(f"value of '{shown(key)}'", MAX_STRING).decode("utf-8", "surrogateescape")
        if kind == ARRAY:
            return self._array(key)
        if kind not in SCALARS:
            raise damaged(self.path, f"the value of '{shown(key)}' has the unknown type {kind:,}")
        if kind == BOOL:
            return self._bool(key, self.take(1))
        return self.number(SCALARS[kind])

    def _bool(self, key: str, raw: bytes) -> bool:
        if raw not in (b"\0", b"\1"):
            raise damaged(self.path, f"'{shown(key)}' is neither true nor false")
        return raw == b"\1"

    def _array(self, key: str) -> Any:
        kind, count = self.number("<I"), self.number("<Q")
        if count > MAX_ITEMS:
            raise damaged(self.path, f"'{shown(key)}' claims {count:,} entries, above the limit of {MAX_ITEMS:,}")
        if kind == STRING:
            return self._strings(key, count)
        if kind not in SCALARS:
            what = "arrays in it" if kind == ARRAY else f"the unknown type {kind:,}"
            raise damaged(self.path, f"the array '{shown(key)}' has {what}")
        dtype = np.dtype(NUMPY[kind])
        raw = self.take(count * dtype.itemsize, f"the array '{shown(key)}'")
        return np.frombuffer(raw, dtype)

    def _strings(self, key: str, count: int) -> Strings:
        what, first = f"the array '{shown(key)}'", self.at
        if count * 8 > self.size - first:
            raise damaged(self.path, f"{what} of {count:,} strings goes beyond the file")
        starts = np.empty(count, np.int64)
        if not self._short_strings(starts):
            self._any_strings(starts, what)
        return Strings(self._file.bytes_at(first, self.at - first), starts)

    def _any_strings(self, starts: NDArray[np.int64], what: str) -> None:
        """Where each of the next strings begins, counted from here."""
        first = self.at
        for i in range(starts.size):
            starts[i] = self.at - first
            self._advance(self.number("<Q"), what)

    def _short_strings(self, starts: NDArray[np.int64]) -> bool:
        """The same, as fast as a vocabulary of 100,000 words wants: in C++. False, and nothing is read, where that is
        not there, strings are long, or the file ends."""
        native, most = extension(), min(self.size - self.at, starts.size * SHORT)
        if native is None:
            return False
        end: int = native.find_strings(self._file.array(self.at, np.dtype(np.uint8), (most,)), starts)
        self.at += max(end, 0)
        return end >= 0
