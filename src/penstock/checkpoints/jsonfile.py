"""JSON files of a checkpoint, read within bounds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from penstock.checkpoints.source import LFS_PREFIX
from penstock.errors import CheckpointError

MAX_CONFIG = 10_000_000  # bytes
MAX_INDEX = 100_000_000


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
        data = json.loads(raw.decode("utf-8-sig"))
    except RecursionError as error:
        raise CheckpointError(f"{path}: nested too deeply; download it again") from error
    except ValueError as error:
        why = str(error).splitlines()[0][:200]
        raise CheckpointError(f"{path}: not valid JSON ({why}); download it again or mend it") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: holds no JSON object; download it again")
    return data
