"""JSON files of a checkpoint, read within bounds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from penstock.checkpoints.source import LFS_PREFIX, shown
from penstock.errors import CheckpointError

MAX_CONFIG = 10_000_000  # bytes
MAX_INDEX = 100_000_000
# No file of a checkpoint needs more than half a million tensors do: bounds what parsing allocates.
MAX_BRACKETS = 1_600_000
MAX_COMMAS = 8_000_000


def parse(raw: bytes, *, unique: bool = False) -> Any:
    """JSON in UTF-8. ValueError, its text one short line, for anything else; ``unique`` refuses a key given twice."""
    if raw.count(b"{") + raw.count(b"[") > MAX_BRACKETS or raw.count(b",") > MAX_COMMAS:
        raise ValueError("more entries than any checkpoint needs")
    try:
        return json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_unique if unique else None)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise ValueError(shown(str(error), 200)) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"'{shown(key)}' appears twice")
            seen.add(key)
    return found


def read_json(path: Path, limit: int = MAX_CONFIG) -> dict[str, Any]:
    """The JSON object in ``path``. Raises `CheckpointError` when it is absent, above ``limit`` bytes or no object."""
    try:
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file; download the checkpoint again")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise CheckpointError(f"{path}: {size:,} bytes is above the limit of {limit:,} for this file")
            raw = file.read(limit + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if raw.startswith(LFS_PREFIX):
        raise CheckpointError(
            f"{path}: this is a Git LFS pointer, not the file: run `git lfs pull` in the folder, or download it again"
        )
    try:
        data = parse(raw)
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}); download it again or mend it") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: holds no JSON object; download it again")
    return data
