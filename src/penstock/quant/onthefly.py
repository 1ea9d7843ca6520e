"""Plain weights made int8 or int4 while they are read.

int8: symmetric, one scale for a group of inputs of a row. int4: codes 0..15 with a scale and a zero point a group,
found by search: from each of a few widths about the group's middle, codes and the straight line through them (least
squares) are fitted to each other in turn, and the pair with the smallest squared error is kept. Matrices of linears and
experts only; routers, gates and tables stay as they are, and an output projection is int8 under either wish.
docs/formats.md states the errors.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from penstock.models.program import WeightSpec
from penstock.quant.dequantise import dequantise
from penstock.quant.formats import DENSE
from penstock.quant.scheme import Array, WeightData
from penstock.quant.threads import in_pieces

F32 = NDArray[np.float32]
Convert = Callable[[WeightSpec, WeightData], WeightData]

INT8_GROUP, INT4_GROUP = 128, 32
WIDTHS, FITS = (1.0, 0.85), 2
CHUNK = 1 << 17  # numbers converted at once, so that the work stays in cache
KEPT = ("router.weight", "shared_gate.weight")
HEADS = ("head.weight", "embed.weight")


def converter(method: str, group: int | None = None) -> Convert:
    """The conversion ``int8`` or ``int4``, of ``group`` inputs a scale."""

    def convert(spec: WeightSpec, data: WeightData) -> WeightData:
        if data.format not in DENSE or spec.kind not in ("matrix", "experts") or spec.name.endswith(KEPT):
            return data
        bits = 8 if method == "int8" or spec.name in HEADS else 4
        return quantise(data, bits, group or (INT8_GROUP if bits == 8 else INT4_GROUP))

    return convert


def quantise(data: WeightData, bits: int, group: int) -> WeightData:
    """A dense weight as int8 or int4; rows that ``group`` does not divide get smaller groups (at least 32), else int8
    with one scale a row."""
    k = data.shape[-1]
    while k % group and group > 32:
        group //= 2
    if k % group:
        bits, group = 8, k
    source = data.arrays["weight"].reshape(-1, k)
    n = source.shape[0]
    codes: Array = np.empty((n, k // 2), np.uint8) if bits == 4 else np.empty((n, k), np.int8)
    scales = np.empty((n, k // group), np.float32)
    zeros = np.empty_like(scales)
    step = max(1, CHUNK // k)

    def piece(rows: slice) -> None:
        w = source[rows].astype(np.float32).reshape(-1, k // group, group)
        if bits == 8:
            signed, scales[rows] = _int8(w)
            codes[rows] = signed.reshape(-1, k)
        else:
            unsigned, scales[rows], zeros[rows] = _int4(w)
            flat = unsigned.reshape(-1, k)
            codes[rows] = flat[:, 0::2] | flat[:, 1::2] << 4

    in_pieces(n, step, piece)
    lead = data.shape[:-1]
    arrays: dict[str, Array] = {"weight": codes.reshape(*lead, -1), "scales": scales.reshape(*lead, -1)}
    if bits == 4:
        arrays["zeros"] = zeros.reshape(*lead, -1)
    return WeightData(f"int{bits}", data.shape, arrays, params={"group": group})


def _int8(w: F32) -> tuple[NDArray[np.int8], F32]:
    scale = np.abs(w).max(axis=2) / np.float32(127)
    codes = np.rint(w * _inverse(scale)[:, :, None])
    return codes.astype(np.int8), scale


def _int4(w: F32) -> tuple[NDArray[np.uint8], F32, F32]:
    """Codes, scales and zero points of groups w [n, groups, group]."""
    low, high = w.min(axis=2), w.max(axis=2)
    mean, best = w.mean(axis=2), np.full(low.shape, np.inf, np.float32)
    scale, offset = np.zeros_like(low), low
    for width in WIDTHS:
        m = (low + high) / 2 - (high - low) * np.float32(width / 2)
        s = (high - low) * np.float32(width / 15)
        for _ in range(FITS):
            q = _codes(w, s, m)
            middle = q.mean(axis=2)
            centred = q - middle[:, :, None]
            together = np.einsum("ngk,ngk->ng", centred, w)
            s = together * _inverse(np.einsum("ngk,ngk->ng", centred, centred))
            m = mean - s * middle
            error = -s * together  # the squared error less that of the mean alone
            better = error < best
            best = np.where(better, error, best)
            scale, offset = np.where(better, s, scale), np.where(better, m, offset)
    flat = scale == 0  # (0 + 1) * offset
    zeros = np.where(flat, np.float32(-1), -offset * _inverse(scale))
    return _codes(w, scale, offset).astype(np.uint8), np.where(flat, offset, scale), zeros


def _codes(w: F32, scale: F32, offset: F32) -> F32:
    q = w - offset[:, :, None]
    q *= _inverse(scale)[:, :, None]
    return np.clip(np.rint(q, out=q), 0, 15, out=q)


def _inverse(x: F32) -> F32:
    """1 / x, and 0 where x is 0."""
    return np.divide(np.float32(1), x, out=np.zeros_like(x), where=x != 0)


def error_of(data: WeightData, made: WeightData) -> float:
    """The root mean square of what ``made`` changed, by that of ``data``."""
    a, b = dequantise(data), dequantise(made)
    return float(np.sqrt(np.square(a - b).mean() / max(float(np.square(a).mean()), 1e-30)))
