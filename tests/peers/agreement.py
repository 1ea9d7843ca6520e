"""How far two engines are apart on the same file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Distance:
    """Of logits, in their own unit; ``same`` of ``rows`` rows have the same most likely token."""

    largest: float
    mean: float
    rows: int
    same: int


def distance(found: Sequence[F32], expected: Sequence[F32]) -> Distance:
    a, b = np.concatenate(list(found)), np.concatenate(list(expected))
    apart = np.abs(a - b)
    same = int((a.argmax(1) == b.argmax(1)).sum())
    return Distance(float(apart.max()), float(apart.mean()), len(a), same)


def margins(rows: F32) -> NDArray[np.float32]:
    """By how much the most likely token of each row leads."""
    best = np.partition(rows, -2, axis=1)
    return np.asarray(best[:, -1] - best[:, -2], np.float32)
