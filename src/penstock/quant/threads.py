"""Pieces of one array worked on side by side: numpy and the extension compute without the GIL."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

MAX_THREADS = 8


def in_pieces(count: int, step: int, run: Callable[[slice], object]) -> None:
    """``run`` on each ``step`` of 0..count; the order is open, so pieces must not overlap."""
    pieces = [slice(start, min(start + step, count)) for start in range(0, count, step)]
    threads = min(MAX_THREADS, len(os.sched_getaffinity(0)), len(pieces))
    if threads < 2:
        for piece in pieces:
            run(piece)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, pieces))
