"""Plain weights made int8 or int4: the reference of the arithmetic, which executors may do while they pack.

A weight *to be rounded* is a :class:`WeightData` of the format it will have, ``int8`` or ``int4``, whose one array is
``plain``: the numbers as they are, of the weight's own shape. :func:`rounded` makes its canonical arrays.

int8: symmetric, one scale for a group of inputs of a row. int4: codes 0..15 with a scale and a zero point a group,
found by search: from each of two widths about the group's middle, codes and the straight line through them (least
squares) are fitted to each other in turn, and the pair with the smallest squared error is kept. A group that is nearly
one number is that number. Scales and zero points are float16 numbers, except in a matrix whose largest scale is too
large or too small for them. Sums run over a group's inputs in order, so that any executor can give the same bits.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from penstock.quant.scheme import Array, WeightData
from penstock.quant.threads import in_pieces

F32 = NDArray[np.float32]

PLAIN = "plain"
WIDTHS, FITS = (1.0, 0.85), 2
FLAT = 2048  # a zero point this far away: the group is one number
HALF = (2.0**-14, 65504.0)  # where the largest scale of a matrix must be
CHUNK = 1 << 17  # numbers converted at once, so that the work stays in cache


def to_round(data: WeightData, bits: int, group: int) -> WeightData:
    """A dense weight that is to be int8 or int4. Rows that ``group`` does not divide get smaller groups (at least 32),
    else int8 with one scale a row."""
    k = data.shape[-1]
    while k % group and group > 32:
        group //= 2
    if k % group:
        bits, group = 8, k
    return WeightData(f"int{bits}", data.shape, {PLAIN: data.arrays["weight"]}, params={"group": group})


def rounded(data: WeightData) -> WeightData:
    """The canonical arrays of a weight that is to be rounded; any other as it is."""
    if PLAIN not in data.arrays:
        return data
    plain, group = data.arrays[PLAIN], int(data.params["group"])
    made = [_matrix(matrix, data.format, group) for matrix in plain.reshape(-1, *plain.shape[-2:])]
    lead = data.shape[:-1]
    return replace(data, arrays={role: np.stack([m[role] for m in made]).reshape(*lead, -1) for role in made[0]})


def _matrix(source: Array, fmt: str, group: int) -> dict[str, Array]:
    made = _in_pieces(source, fmt, group, half=True)
    largest = float(np.abs(made["scales"]).max(initial=0))
    return made if HALF[0] <= largest <= HALF[1] else _in_pieces(source, fmt, group, half=False)


def _in_pieces(source: Array, fmt: str, group: int, half: bool) -> dict[str, Array]:
    n, k = source.shape
    four = fmt == "int4"
    codes: Array = np.empty((n, k // 2), np.uint8) if four else np.empty((n, k), np.int8)
    scales = np.empty((n, k // group), np.float32)
    zeros = np.empty_like(scales)

    def piece(rows: slice) -> None:
        w = np.ascontiguousarray(source[rows].astype(np.float32).reshape(-1, group).T)
        with np.errstate(all="ignore"):
            made, scale, zero = _int4(w, half) if four else _int8(w, half)
        scales[rows], zeros[rows] = scale.reshape(-1, k // group), zero.reshape(-1, k // group)
        flat = made.T.reshape(-1, k)
        codes[rows] = flat[:, 0::2] | flat[:, 1::2] << 4 if four else flat.view(np.int8)

    in_pieces(n, max(1, CHUNK // k), piece)
    return {"weight": codes, "scales": scales} | ({"zeros": zeros} if four else {})


def _int8(w: F32, half: bool) -> tuple[NDArray[np.uint8], F32, F32]:
    """Signed codes, scales and no zero points of groups w [group, groups]."""
    scale = np.abs(w).max(axis=0) / np.float32(127)
    if half:
        scale = _half(scale)
    codes = np.rint(np.clip(w * _inverse(scale), -127, 127))
    return codes.astype(np.int8).view(np.uint8), scale, np.zeros_like(scale)


def _int4(w: F32, half: bool) -> tuple[NDArray[np.uint8], F32, F32]:
    """Codes, scales and zero points of groups w [group, groups]."""
    group = np.float32(w.shape[0])
    mean = _sum(w) / group
    c = w - mean
    total, low, high = _sum(c), c.min(axis=0), c.max(axis=0)
    scale, offset, best = np.zeros_like(low), low, np.full_like(low, np.inf)
    for width in WIDTHS:
        s = (high - low) * (np.float32(width) / np.float32(15))
        m = (low + high) / np.float32(2) - (high - low) * (np.float32(width) / np.float32(2))
        for _ in range(FITS):
            q = np.rint(np.clip((c - m) * _inverse(s), 0, 15))
            sums = _sum(q)
            middle = sums / group
            together = _sum(q * c) - middle * total
            s = together * _inverse(_sum(q * q) - sums * middle)
            m = total / group - s * middle
            error = -s * together  # the squared error less that of the mean alone
            better = error < best
            best = np.where(better, error, best)
            scale, offset = np.where(better, s, scale), np.where(better, m, offset)
    slope = _half(scale) if half else scale
    zero = -(mean + offset) * _inverse(slope)
    flat = (slope == 0) | (np.abs(zero) > FLAT)  # (0 + 1) * mean
    zero, level = (_half(zero), _half(mean)) if half else (zero, mean)
    factor, shift = np.where(flat, np.float32(0), _inverse(slope)), np.where(flat, np.float32(0), zero)
    codes = np.rint(np.clip(w * factor + shift, 0, 15)).astype(np.uint8)
    return codes, np.where(flat, level, slope), np.where(flat, np.float32(-1), zero)


def _sum(x: F32) -> F32:
    """Over axis 0, one after the other."""
    total: F32 = np.zeros_like(x[0])
    for row in x:
        total += row
    return total


def _half(x: F32) -> F32:
    return x.astype(np.float16).astype(np.float32)


def _inverse(x: F32) -> F32:
    """1 / x, and 0 where x is 0."""
    return np.divide(np.float32(1), x, out=np.zeros_like(x), where=x != 0)
