"""What the numbers of a :class:`WeightData` are: the reference meaning of every format, in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from penstock.errors import UnsupportedError
from penstock.quant import ggml
from penstock.quant.formats import BLOCKS, DENSE
from penstock.quant.rounding import rounded
from penstock.quant.scheme import WeightData

F32 = NDArray[np.float32]
Dequantiser = Callable[[WeightData], F32]


def _dense(data: WeightData) -> F32:
    return np.array(data.arrays["weight"], dtype=np.float32, order="C", copy=True)


def _e4m3() -> F32:
    """All 256 values of float8 e4m3 (no infinities; 0x7f and 0xff are NaN)."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    size = np.where(exponent > 0, (8 + mantissa) * 2.0 ** (exponent - 10), mantissa * 2.0**-9)
    size[(code & 127) == 127] = np.nan
    return np.asarray(np.where(code >> 7, -size, size), np.float32)


E4M3 = _e4m3()


def unpack_int4(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Codes 0..15, the low nibble of a byte first: [..., k / 2] -> [..., k]."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def _int8(data: WeightData) -> F32:
    return _scaled(data, data.arrays["weight"].astype(np.float32))


def _int4(data: WeightData) -> F32:
    return _scaled(data, unpack_int4(data.arrays["weight"]).astype(np.float32))


def _fp8(data: WeightData) -> F32:
    return _scaled(data, E4M3[data.arrays["weight"]])


def _scaled(data: WeightData, codes: F32) -> F32:
    """(code - zero) * scale, in place; each product is rounded once, so any order of work gives these bits."""
    scales, zeros, index = data.arrays["scales"], data.arrays.get("zeros"), data.arrays.get("g_idx")
    k, group = data.shape[-1], int(data.params["group"])
    if index is None and k % group == 0:
        grouped = codes.reshape(codes.shape[0], -1, group)
        if zeros is not None:
            grouped -= zeros[:, :, None]
        grouped *= scales[:, :, None]
        return codes
    which = np.arange(k) // group if index is None else index
    if zeros is not None:
        codes -= zeros[:, which]
    codes *= scales[:, which]
    return codes


def _blocks(data: WeightData) -> F32:
    raw = np.ascontiguousarray(data.arrays["blocks"]).reshape(-1, BLOCKS[data.format].nbytes)
    return ggml.DEQUANTISERS[data.format](raw).reshape(data.shape)


DEQUANTISERS: dict[str, Dequantiser] = {
    **dict.fromkeys(DENSE, _dense),
    "int8": _int8,
    "int4": _int4,
    "fp8": _fp8,
    **dict.fromkeys(BLOCKS, _blocks),
}
"""By ``WeightData.format``; codes with scales take a matrix, the others any shape."""


def dequantise(data: WeightData) -> F32:
    """A fresh float32 array of ``data.shape``. Raises ``UnsupportedError`` for a format without a meaning here."""
    data = rounded(data)
    function = DEQUANTISERS.get(data.format)
    if function is None:
        raise UnsupportedError(
            f"format '{data.format}' cannot be turned into float32; known: {', '.join(DEQUANTISERS)}"
        )
    if len(data.shape) > 2 and data.format not in (*DENSE, *BLOCKS):
        array = np.empty(data.shape, np.float32)
        for e in range(data.shape[0]):
            one = {role: values[e] for role, values in data.arrays.items()}
            array[e] = dequantise(replace(data, arrays=one, shape=data.shape[1:]))
        return array
    array = function(data)
    if array.shape != data.shape:
        raise ValueError(f"format '{data.format}' gave {array.shape} for a weight of shape {data.shape}")
    return array
