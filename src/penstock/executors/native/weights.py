"""What the native executor makes of a weight: its layout, and what its inputs are turned into."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.config import ACTIVATIONS
from penstock.errors import CheckpointError, ConfigError, UnsupportedError
from penstock.executors.native.lower import Loaded
from penstock.models.program import WeightSpec
from penstock.quant.formats import BLOCKS, CODES, DENSE
from penstock.quant.rounding import PLAIN
from penstock.quant.scheme import WORDS, Array, WeightData

BF16_ISAS = ("avx512", "amx")
"""Instruction sets with a bfloat16 dot product."""
NAMES = {name: fmt for fmt, name in DENSE.items()}
INT8_ISAS = ("avx2", "avx512", "amx")
"""Instruction sets whose products of bytes are faster than those of floats, by two to five times."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How linears compute. ``bf16``: inputs of bfloat16 weights are rounded to it. ``int8``: those of quantised weights
    (all but fp8) become whole numbers, by row and group, and are multiplied as such; else codes become floats."""

    bf16: bool
    int8: bool

    def inputs(self, fmt: str) -> str:
        """What the inputs of a weight of this format are turned into."""
        if fmt in DENSE:
            return "bf16" if fmt == "bf16" and self.bf16 else "f32"
        return "i8" if self.int8 and fmt != "fp8" else "f32"


def resolve_arithmetic(compute: str, activation: str, isa: str) -> Arithmetic:
    """From the wishes ``dtype`` and ``activation``. Raises ``ConfigError`` for what cannot be."""
    if compute not in ("auto", "f32", "f16", "bf16"):
        raise ConfigError(f"dtype {compute} is not what the native executor computes in; use auto, float32 or bfloat16")
    if compute == "bf16" and isa not in BF16_ISAS:
        raise ConfigError(f"dtype bfloat16: {isa} has no bfloat16 dot product; use auto or float32")
    if activation not in ACTIVATIONS:
        raise ConfigError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    automatic = activation == "auto" and compute != "f32" and isa in INT8_ISAS
    # float32 holds all that float16 does, and no CPU here is faster at the latter
    return Arithmetic(compute in ("auto", "bf16") and isa in BF16_ISAS, activation == "int8" or automatic)


def take(core: Any, spec: WeightSpec, data: WeightData, arithmetic: Arithmetic) -> Loaded:
    """Pack a weight into ``core``. Raises ``CheckpointError``, ``UnsupportedError`` naming it."""
    if data.shape != spec.shape:
        raise CheckpointError(f"weight '{spec.name}' has shape {list(data.shape)}, not {list(spec.shape)}")
    if spec.kind == "vector":
        if data.format not in DENSE:
            raise UnsupportedError(f"weight '{spec.name}': a vector cannot be of the format '{data.format}'")
        return Loaded(core.add_vector(np.ascontiguousarray(data.arrays["weight"], np.float32).reshape(-1)))
    inputs = arithmetic.inputs(data.format)
    count = data.shape[0] if spec.kind == "experts" else 0
    pieces = [_expert(data, e) for e in range(count)] if count else [data]
    numbers = [_add(core, spec.name, piece, inputs) for piece in pieces]  # experts: one matrix each, in a row
    return Loaded(numbers[0], data.format, inputs, _key(data))


def _expert(data: WeightData, e: int) -> WeightData:
    arrays = {role: array[e] for role, array in data.arrays.items()}
    return WeightData(data.format, data.shape[1:], arrays, data.shared, data.params)


def _add(core: Any, name: str, data: WeightData, inputs: str) -> int:
    if data.format in DENSE:
        return int(core.add_matrix(data.format, _rows(data.arrays["weight"])))
    if WORDS in data.arrays:
        roles = (data.arrays.get(role) for role in (WORDS, "word_zeros", "word_scales"))
        words, zeros, scales = (None if a is None else a.view(f"u{a.itemsize}") for a in roles)
        params = data.params
        return int(core.add_words(params["layout"], words, zeros, scales, int(params["group"]), int(params["plus"])))
    if PLAIN in data.arrays:
        plain = data.arrays[PLAIN]
        fmt, bits = NAMES[plain.dtype.name], int(data.format.removeprefix("int"))
        return int(core.add_rounded(fmt, _rows(plain), bits, int(data.params["group"])))
    arrays = {role: np.ascontiguousarray(array) for role, array in data.arrays.items()}
    if data.format in BLOCKS:
        return int(core.add_blocks(data.format, arrays["blocks"], data.shape[-1]))
    if data.format not in CODES:
        raise UnsupportedError(f"weight '{name}': the native executor does not know the format '{data.format}'")
    one_scale = inputs == "i8" and data.params.get("act") == "int8"
    return int(
        core.add_codes(
            data.format, arrays["weight"].view(np.uint8), arrays["scales"], arrays.get("zeros"),
            int(data.params["group"]), arrays.get("g_idx"), one_scale,
        )
    )  # fmt: skip


def _rows(array: Array) -> Array:
    """Plain numbers as the core takes them: rows of contiguous numbers, bfloat16 as its bits."""
    if array.dtype.name == "bfloat16":
        array = array.view(np.uint16)
    if array.strides[1] != array.itemsize or array.strides[0] < 0 or not array.flags.aligned:
        array = array.copy(order="C")
    return array


def _key(data: WeightData) -> str:
    """Equal where inputs are grouped, ordered and quantised alike."""
    if data.format in DENSE:
        return ""
    if data.format in BLOCKS:
        return "16" if data.format in ("q2_k", "q3_k", "q6_k") else "32"
    key = f"{data.params['group']} {data.params.get('act', '')}"
    if "g_idx" in data.arrays:
        key += " " + hashlib.sha256(np.ascontiguousarray(data.arrays["g_idx"]).tobytes()).hexdigest()
    return key
