"""Where tests find their data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = REPOSITORY / "tests" / "data"


def data(*parts: str) -> Path:
    """A file or folder under ``tests/data``; it must exist, since it is in the repository."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        raise FileNotFoundError(f"{path}: not in the repository")
    return path


def shared(*parts: str) -> Path:
    """A file or folder of the reference data kept beside the repository (or where ``PENSTOCK_SHARED`` says).

    The data is large and optional: the test is skipped, with the reason printed, where it is absent.
    """
    path = Path(os.environ.get("PENSTOCK_SHARED") or REPOSITORY.parent / "shared").joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no reference data {'/'.join(parts)} beside the repository (PENSTOCK_SHARED names its folder)")
    return path


def golden(name: str) -> Path:
    """The fixture ``name``: a folder with ``ckpt/`` and ``golden.npz``, from the repository or the shared data."""
    path = DATA / "golden" / name
    return path if path.exists() else shared("golden", name)
