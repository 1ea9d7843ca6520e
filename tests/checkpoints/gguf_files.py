"""Small GGUF files made by hand, so that tests can make them wrong as well."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

F32, F16, Q8_0 = 0, 1, 8
U8, I8, U16, I16, U32, I32, FLOAT, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMS = {U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", FLOAT: "<f", BOOL: "<B", U64: "<Q", I64: "<q",
         F64: "<d"}  # fmt: skip


def text(value: str | bytes) -> bytes:
    raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def value(kind: int, content: Any) -> bytes:
    if kind == STRING:
        return text(content)
    if kind == ARRAY:
        of, items = content
        return struct.pack("<IQ", of, len(items)) + b"".join(value(of, item) for item in items)
    return struct.pack(FORMS[kind], content)


def entry(key: str | bytes, kind: int, content: Any) -> bytes:
    return text(key) + struct.pack("<I", kind) + value(kind, content)


def info(name: str | bytes, dims: Sequence[int], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def guess(content: Any) -> tuple[int, Any]:
    """The kind of a value, unless it is a pair of a kind and a value."""
    if isinstance(content, tuple):
        return content
    if isinstance(content, bool):
        return BOOL, content
    if isinstance(content, int):
        return U32, content
    if isinstance(content, float):
        return FLOAT, content
    if isinstance(content, str):
        return STRING, content
    return ARRAY, (guess(content[0])[0], content)


def pack(
    entries: Sequence[bytes], infos: Sequence[bytes], data: bytes = b"", *, version: int = 3, magic: bytes = b"GGUF",
    tensors: int | None = None, count: int | None = None, alignment: int = 32,
) -> bytes:  # fmt: skip
    """A file of any parts, with true or other counts."""
    head = magic + struct.pack("<I", version)
    head += struct.pack("<QQ", len(infos) if tensors is None else tensors, len(entries) if count is None else count)
    head += b"".join(entries) + b"".join(infos)
    return head + bytes(-len(head) % alignment) + data


def encode(metadata: Mapping[str, Any], tensors: Mapping[str, Any], alignment: int = 32) -> bytes:
    """A sound file. Tensors are float arrays, or (type, dims innermost first, bytes)."""
    infos, data = [], bytearray()
    for name, tensor in tensors.items():
        if isinstance(tensor, tuple):
            kind, dims, raw = tensor
        else:
            array = np.ascontiguousarray(tensor)
            kind, dims, raw = {"float32": F32, "float16": F16}[array.dtype.name], array.shape[::-1], array.tobytes()
        infos.append(info(name, dims, kind, len(data)))
        data += raw + bytes(-len(raw) % alignment)
    return pack(
        [entry(key, *guess(content)) for key, content in metadata.items()], infos, bytes(data), alignment=alignment
    )


def write(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Any]) -> Path:
    path.write_bytes(encode(metadata, tensors))
    return path
