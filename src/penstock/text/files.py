"""Bounded reading of a tokenizer's files. Every fault names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from penstock.errors import CheckpointError

MIB = 1 << 20
LIMITS = {".json": 256 * MIB, ".model": 64 * MIB, ".tiktoken": 64 * MIB, ".txt": 64 * MIB, ".jinja": 1 * MIB}
LFS_POINTER = b"version https://git-lfs.github.com/spec"


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """The content of ``path``, refused when larger than ``limit`` bytes (default: by suffix) or a Git LFS pointer."""
    bound = limit or LIMITS.get(path.suffix, 64 * MIB)
    try:
        size = path.stat().st_size
        if size > bound:
            raise CheckpointError(f"{path}: {size} bytes, more than the {bound} that such a file may have")
        with path.open("rb") as file:
            data = file.read(bound + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    if data.startswith(LFS_POINTER):
        raise CheckpointError(f"{path}: a Git LFS pointer, not the file itself; fetch it with 'git lfs pull'")
    if not data:
        raise CheckpointError(f"{path}: the file is empty")
    return data


def read_text(path: Path, limit: int | None = None) -> str:
    """The UTF-8 text of ``path``; a byte order mark is dropped."""
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not UTF-8 text (byte {error.start})") from error


def read_json(path: Path, limit: int | None = None) -> dict[str, Any]:
    """The JSON object in ``path``."""
    try:
        value = json.loads(read_text(path, limit))
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def read_json_if(path: Path) -> dict[str, Any]:
    """As :func:`read_json`, or an empty object when there is no such file."""
    return read_json(path, 16 * MIB) if path.is_file() else {}
