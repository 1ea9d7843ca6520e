"""Rotary embedding: inverse frequencies, and how they change with length.

    angle(position, i) = f32(position) * f32(inv_freq[i])        rounded to float32, then cos and sin, times `scale`
    inv_freq[i]        = 1 / theta ** (2 i / dim)                before any scaling

Three rules depend on a length ``n`` that penstock fixes per token, so that neither chunks nor batches can change it:

    dynamic, longrope    n = max(prompt length, position + 1)    as one prefill, then cached decoding in transformers
    qwen_ntk             n = prompt length

A result is the float32 nearest to what the formulas give on float32 exponents; transformers computes the same in
float32, so single values may differ from its by one unit in the last place.

Sources: linear, dynamic (bloc97, emozilla), llama3: ``modeling_rope_utils.py`` of transformers 5; YaRN: Peng et al.
2023, arXiv 2309.00071; LongRoPE: Ding et al. 2024, arXiv 2402.13753; qwen_ntk: ``modeling_qwen.py`` of Qwen-7B.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from penstock.models.architecture import Rope, RopeScaling

F32 = NDArray[np.float32]
LengthRule = Literal["none", "dynamic", "longrope", "qwen_ntk"]


@dataclass(frozen=True, slots=True)
class Frequencies:
    """Inverse frequencies [dim / 2] and the factor of cos and sin; ``long``: those of longrope for long sequences."""

    inv_freq: tuple[float, ...]
    scale: float
    length: LengthRule = "none"
    inv_freq_long: tuple[float, ...] = ()
    scale_long: float = 1.0


def frequencies(rope: Rope) -> Frequencies:
    """The constants of one rotary embedding. Length rules start from the frequencies of a short sequence."""
    scaling = rope.scaling
    base = powers(rope.theta, rope.dim)
    plain = inverse(rope.theta, rope.dim)
    if rope.half_precision:
        plain = plain.astype(np.float16).astype(np.float32)
    if scaling is None:
        return Frequencies(_tuple(plain), 1.0)
    if scaling.kind == "linear":
        return Frequencies(_tuple(plain / np.float32(scaling.factor)), 1.0)
    if scaling.kind == "llama3":
        return Frequencies(_tuple(_llama3(plain, scaling)), 1.0)
    if scaling.kind == "yarn":
        return Frequencies(_tuple(_yarn(base, rope, scaling)), _yarn_attention(scaling))
    if scaling.kind == "longrope":
        short, long = (_inverse(np.asarray(f, np.float32) * base) for f in (scaling.short_factor, scaling.long_factor))
        scale = _longrope_attention(scaling)
        return Frequencies(_tuple(short), scale, "longrope", _tuple(long), scale)
    return Frequencies(_tuple(plain), 1.0, scaling.kind)


def powers(theta: float, dim: int) -> F32:
    """theta ** (2 i / dim) for i < dim / 2, exponents rounded to float32 as transformers has them."""
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return (np.float64(np.float32(theta)) ** exponents.astype(np.float64)).astype(np.float32)


def inverse(theta: float, dim: int) -> F32:
    """inv_freq [dim / 2] without scaling."""
    return _inverse(powers(theta, dim))


def stretched_theta(theta: float, dim: int, rule: str, n: int, factor: float, original: int) -> float:
    """The base that ``dynamic`` and ``qwen_ntk`` use for the length ``n``; ``theta`` itself when n is short."""
    if n <= original or rule not in ("dynamic", "qwen_ntk"):
        return theta
    if rule == "dynamic":
        stretch = factor * n / original - (factor - 1)
    else:
        stretch = float(qwen_alpha(n, original))
    return float(theta * stretch ** (dim / (dim - 2)))


def qwen_alpha(n: int, original: int) -> int:
    """Qwen-1's NTK alpha: 2 ** ceil(log2(n / original) + 1) - 1, at least 1; one value up to each power of two."""
    return max(1, 2 ** math.ceil(math.log2(n / original) + 1) - 1) if n > 0 else 1


def length_key(scaling: RopeScaling | None, prompt_len: int) -> int:
    """Prompts of equal keys rotate equal tokens equally, so only those may share cached key rows."""
    if scaling is None:
        return 0
    if scaling.kind == "dynamic":
        return max(prompt_len, scaling.original_length)
    if scaling.kind == "longrope":
        return int(prompt_len > scaling.original_length)
    if scaling.kind == "qwen_ntk":
        return qwen_alpha(prompt_len, scaling.original_length)
    return 0


def _inverse(values: F32) -> F32:
    return np.float32(1.0) / values


def _tuple(values: NDArray[Any]) -> tuple[float, ...]:
    return tuple(float(v) for v in values.astype(np.float32))


def _llama3(inv_freq: F32, s: RopeScaling) -> F32:
    """Long waves are divided by the factor, short ones kept, those between interpolated (Llama 3.1)."""
    wavelength = np.float32(2 * math.pi) / inv_freq
    smooth = (np.float32(s.original_length) / wavelength - np.float32(s.low_freq_factor)) / np.float32(
        s.high_freq_factor - s.low_freq_factor
    )
    divided = inv_freq / np.float32(s.factor)
    between = (1 - smooth) * divided + smooth * inv_freq
    result = np.where(wavelength > s.original_length / s.low_freq_factor, divided, between)
    kept: F32 = np.where(wavelength < s.original_length / s.high_freq_factor, inv_freq, result).astype(np.float32)
    return kept


def _yarn(base: F32, rope: Rope, s: RopeScaling) -> F32:
    """Dimensions that turn often are kept, those that turn rarely interpolated, a linear ramp between."""

    def dimension(rotations: float) -> float:
        return rope.dim * math.log(s.original_length / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = dimension(s.beta_fast), dimension(s.beta_slow)
    if s.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(rope.dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    keep = np.float32(1) - ramp.astype(np.float32)
    mixed: F32 = _inverse(np.float32(s.factor) * base) * (np.float32(1) - keep) + _inverse(base) * keep
    return mixed


def _yarn_attention(s: RopeScaling) -> float:
    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(s.factor) + 1.0 if s.factor > 1 else 1.0

    if s.attention_factor is not None:
        return s.attention_factor
    if s.mscale and s.mscale_all_dim:
        return mscale(s.mscale) / mscale(s.mscale_all_dim)
    return mscale(1.0)


def _longrope_attention(s: RopeScaling) -> float:
    if s.attention_factor is not None:
        return s.attention_factor
    return math.sqrt(1 + math.log(s.factor) / math.log(s.original_length)) if s.factor > 1 else 1.0
