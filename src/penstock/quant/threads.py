"""Pieces of one array worked on side by side: numpy computes without the GIL."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from penstock.quant.scheme import Array

MAX_THREADS = 8
TILE = 512


def in_pieces(count: int, step: int, run: Callable[[slice], None]) -> None:
    """``run`` on each ``step`` of 0..count; the order is open, so pieces must not overlap."""
    pieces = [slice(start, min(start + step, count)) for start in range(0, count, step)]
    threads = min(MAX_THREADS, len(os.sched_getaffinity(0)), len(pieces))
    if threads < 2:
        for piece in pieces:
            run(piece)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, pieces))


def transposed(words: Array) -> Array:
    """``words`` [a, b] as a contiguous [b, a], in tiles that stay in cache."""
    out: Array = np.empty(words.shape[::-1], words.dtype)

    def run(columns: slice) -> None:
        for start in range(0, words.shape[0], TILE):
            out[columns, start : start + TILE] = words[start : start + TILE, columns].T

    in_pieces(words.shape[1], TILE, run)
    return out
