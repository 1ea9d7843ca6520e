"""ggml's block formats in float32: the reference meaning, one small function each over blocks u8 [blocks, bytes].

Layouts as ggml defines them (``ggml-common.h``, ``ggml-quants.c``). In the pictures a block is read left to right;
``d`` and ``m`` are float16.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
"""The sixteen values of the iq4 types."""


def _half(b: U8, at: int) -> F32:
    """The float16 at byte ``at`` of each block, as a column."""
    return np.ascontiguousarray(b[:, at : at + 2]).view(np.float16).astype(np.float32)


def _nibbles(b: U8) -> U8:
    """[blocks, bytes] -> [blocks, 2, bytes]: low nibbles, then high ones."""
    return np.stack([b & 15, b >> 4], axis=1)


def _bits(b: U8) -> U8:
    """[blocks, bytes] -> [blocks, 8 * bytes], the lowest bit first."""
    return np.unpackbits(b, axis=1, bitorder="little")


def _q8_0(b: U8) -> F32:
    """| d | 32 i8 |"""
    return b[:, 2:].view(np.int8).astype(np.float32) * _half(b, 0)


def _q4_0(b: U8) -> F32:
    """| d | 16 bytes: low nibbles are elements 0..15, high ones 16..31 |"""
    return (_nibbles(b[:, 2:]).reshape(-1, 32).astype(np.float32) - 8) * _half(b, 0)


def _q4_1(b: U8) -> F32:
    """| d | m | 16 bytes |"""
    return _nibbles(b[:, 4:]).reshape(-1, 32).astype(np.float32) * _half(b, 0) + _half(b, 2)


def _q5_0(b: U8) -> F32:
    """| d | 32 fifth bits | 16 bytes |"""
    q = _nibbles(b[:, 6:]).reshape(-1, 32) | _bits(b[:, 2:6]) << 4
    return (q.astype(np.float32) - 16) * _half(b, 0)


def _q5_1(b: U8) -> F32:
    """| d | m | 32 fifth bits | 16 bytes |"""
    q = _nibbles(b[:, 8:]).reshape(-1, 32) | _bits(b[:, 4:8]) << 4
    return q.astype(np.float32) * _half(b, 0) + _half(b, 2)


def _iq4_nl(b: U8) -> F32:
    """| d | 16 bytes of places in IQ4 |"""
    return IQ4[_nibbles(b[:, 2:]).reshape(-1, 32)] * _half(b, 0)


def _crumbs(b: U8) -> U8:
    """64 bytes -> [blocks, 256]: 32 bytes give 128 elements, their lowest bit pairs the first 32 of them."""
    halves = b.reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    return np.asarray(halves & 3, np.uint8).reshape(-1, 256)


def _q2_k(b: U8) -> F32:
    """| 16 scales: low nibble times d, high nibble times m | 64 bytes | d | m |; 16 elements a scale"""
    scales, q = b[:, :16], _crumbs(b[:, 16:80]).reshape(-1, 16, 16).astype(np.float32)
    d = _half(b, 80) * (scales & 15).astype(np.float32)
    m = _half(b, 82) * (scales >> 4).astype(np.float32)
    return (q * d[:, :, None] - m[:, :, None]).reshape(-1, 256)


def _q3_k(b: U8) -> F32:
    """| 32 bytes of third bits | 64 bytes | 12 bytes: 16 scales of 6 bits | d |"""
    low, high = _nibbles(b[:, 96:104]).reshape(-1, 16), b[:, 104:108]
    top = (high.reshape(-1, 1, 4) >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 4, 1)).reshape(-1, 16) & 3
    scales = (low | top << 4).astype(np.float32) - 32
    third = (b[:, None, :32] >> np.arange(8, dtype=np.uint8).reshape(1, 8, 1) & 1).reshape(-1, 256)
    q = _crumbs(b[:, 32:96]).astype(np.float32) - 4 * (1 - third.astype(np.float32))
    d = _half(b, 108) * scales
    return (q.reshape(-1, 16, 16) * d[:, :, None]).reshape(-1, 256)


def _scales_k(b: U8) -> tuple[F32, F32]:
    """12 bytes -> 8 scales and 8 minima of 6 bits: four of each in the low bits, the others in nibbles and tops."""
    x, y, z = b[:, 0:4], b[:, 4:8], b[:, 8:12]
    scales = np.concatenate([x & 63, z & 15 | x >> 6 << 4], axis=1)
    minima = np.concatenate([y & 63, z >> 4 | y >> 6 << 4], axis=1)
    return scales.astype(np.float32), minima.astype(np.float32)


def _q4_k(b: U8) -> F32:
    """| d | m | 12 bytes of scales | 128 bytes |; 32 bytes give 64 elements, low nibbles first; 32 elements a scale"""
    return _scaled(b, _nibbles(b[:, 16:].reshape(-1, 32)).reshape(-1, 8, 32))


def _q5_k(b: U8) -> F32:
    """| d | m | 12 bytes of scales | 32 bytes: bit j is the fifth of sub-block j | 128 bytes |"""
    fifth = np.asarray(b[:, None, 16:48] >> np.arange(8, dtype=np.uint8).reshape(1, 8, 1) & 1, np.uint8)
    return _scaled(b, _nibbles(b[:, 48:].reshape(-1, 32)).reshape(-1, 8, 32) | fifth << np.uint8(4))


def _scaled(b: U8, q: U8) -> F32:
    scales, minima = _scales_k(b[:, 4:16])
    d, m = _half(b, 0) * scales, _half(b, 2) * minima
    return np.asarray(q.astype(np.float32) * d[:, :, None] - m[:, :, None]).reshape(-1, 256)


def _q6_k(b: U8) -> F32:
    """| 128 bytes of low nibbles | 64 bytes of high bit pairs | 16 i8 scales | d |; 16 elements a scale"""
    low = np.stack([b[:, :128].reshape(-1, 2, 64) & 15, b[:, :128].reshape(-1, 2, 64) >> 4], axis=2)
    q = low.reshape(-1, 256) | _crumbs(b[:, 128:192]) << 4
    d = _half(b, 208) * b[:, 192:208].view(np.int8).astype(np.float32)
    return np.asarray((q.astype(np.float32) - 32).reshape(-1, 16, 16) * d[:, :, None]).reshape(-1, 256)


def _iq4_xs(b: U8) -> F32:
    """| d | u16: 8 high bit pairs of the scales | 4 bytes: 8 low nibbles | 128 bytes |; 32 elements a scale"""
    high = np.ascontiguousarray(b[:, 2:4]).view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    low = b[:, 4:8].repeat(2, axis=1) >> np.tile(np.array([0, 4], np.uint8), 4) & 15
    d = _half(b, 0) * ((low | high.astype(np.uint8) << 4).astype(np.float32) - 32)
    q = IQ4[_nibbles(b[:, 8:].reshape(-1, 16)).reshape(-1, 8, 32)]
    return (q * d[:, :, None]).reshape(-1, 256)


DEQUANTISERS: dict[str, Callable[[U8], F32]] = {
    "q8_0": _q8_0, "q4_0": _q4_0, "q4_1": _q4_1, "q5_0": _q5_0, "q5_1": _q5_1, "q2_k": _q2_k, "q3_k": _q3_k,
    "q4_k": _q4_k, "q5_k": _q5_k, "q6_k": _q6_k, "iq4_nl": _iq4_nl, "iq4_xs": _iq4_xs,
}  # fmt: skip
"""By format: blocks u8 [blocks, bytes of a block] -> float32 [blocks, elements of a block]."""
