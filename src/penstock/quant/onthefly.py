"""Plain weights made int8 or int4 while they are read.

int8: symmetric, one scale for ``GROUP`` inputs of a row. int4: codes 0..15 about 8, the scale of each group found by
search: of ``STEPS`` scales around the largest magnitude's, the one with the smallest squared error, then refitted by
least squares to the codes it gives. Matrices of linears and experts only; routers, gates and tables stay as they are,
and an output projection is int8 under either wish.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from penstock.models.program import WeightSpec
from penstock.quant.dequantise import dequantise
from penstock.quant.formats import DENSE
from penstock.quant.scheme import Array, WeightData

F32 = NDArray[np.float32]
Convert = Callable[[WeightSpec, WeightData], WeightData]

INT8_GROUP, INT4_GROUP = 128, 32
STEPS = 16
CHUNK = 1 << 22  # numbers converted at once
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
    step = max(1, CHUNK // k)
    for start in range(0, n, step):
        rows = slice(start, start + step)
        w = source[rows].astype(np.float32).reshape(-1, k // group, group)
        if bits == 8:
            signed, scales[rows] = _int8(w)
            codes[rows] = signed.reshape(-1, k)
        else:
            unsigned, scales[rows] = _int4(w)
            flat = unsigned.reshape(-1, k)
            codes[rows] = flat[:, 0::2] | flat[:, 1::2] << 4
    lead = data.shape[:-1]
    arrays: dict[str, Array] = {"weight": codes.reshape(*lead, -1), "scales": scales.reshape(*lead, -1)}
    if bits == 4:
        arrays["zeros"] = np.full(arrays["scales"].shape, 8, np.float32)
    return WeightData(f"int{bits}", data.shape, arrays, params={"group": group})


def _int8(w: F32) -> tuple[NDArray[np.int8], F32]:
    scale = np.abs(w).max(axis=2) / np.float32(127)
    codes = np.rint(w * _inverse(scale)[:, :, None])
    return codes.astype(np.int8), scale


def _int4(w: F32) -> tuple[NDArray[np.uint8], F32]:
    """The extreme of a group goes near code 0 or 15, whichever side it is on: -8 reaches further than 7."""
    place = np.abs(w).argmax(axis=2)
    extreme = np.take_along_axis(w, place[:, :, None], axis=2)[:, :, 0]
    best = np.full(extreme.shape, np.inf, np.float32)
    scale = np.zeros_like(extreme)
    for shrink in np.linspace(0.7, 1.15, STEPS, dtype=np.float32):
        trial = extreme * (shrink / np.float32(-8))
        q = np.clip(np.rint(w * _inverse(trial)[:, :, None]), -8, 7)
        square = np.einsum("ngk,ngk->ng", q, q)
        fitted = np.einsum("ngk,ngk->ng", w, q) * _inverse(square)
        error = -fitted * np.einsum("ngk,ngk->ng", w, q)  # the squared error less that of zero
        better = error < best
        best, scale = np.where(better, error, best), np.where(better, fitted, scale)
    codes = np.clip(np.rint(w * _inverse(scale)[:, :, None]), -8, 7) + 8
    return codes.astype(np.uint8), scale


def _inverse(x: F32) -> F32:
    """1 / x, and 0 where x is 0."""
    return np.divide(np.float32(1), x, out=np.zeros_like(x), where=x != 0)


def error_of(data: WeightData, made: WeightData) -> float:
    """The root mean square of what ``made`` changed, by that of ``data``."""
    a, b = dequantise(data), dequantise(made)
    return float(np.sqrt(np.square(a - b).mean() / max(float(np.square(a).mean()), 1e-30)))
