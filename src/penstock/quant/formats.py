"""The canonical formats: what arrays a :class:`WeightData` of each has, and whether they fit its shape.

One table for schemes, executors and files; ``docs/decisions/0005-canonical-weights.md`` says why it looks so. Shapes
below are of a matrix [n, k]; a stack of experts has one more axis in front of every array, shared ones included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from penstock.errors import CheckpointError, UnsupportedError
from penstock.quant.rounding import PLAIN
from penstock.quant.scheme import Array, WeightData

DENSE = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
"""Plain numbers: format -> numpy's name of the type of ``weight``."""

CODES = {"int8": ("int8", 1), "int4": ("uint8", 2), "fp8": ("uint8", 1)}
"""Codes with scales: format -> type of ``weight``, codes in one of its elements."""

ACTIVATIONS = ("int8", "fp8")
"""What the param ``act`` may say."""


@dataclass(frozen=True, slots=True)
class Block:
    """A ggml block type: ``elements`` numbers in ``nbytes`` bytes."""

    elements: int
    nbytes: int


BLOCKS = {
    "q8_0": Block(32, 34), "q4_0": Block(32, 18), "q4_1": Block(32, 20), "q5_0": Block(32, 22), "q5_1": Block(32, 24),
    "q2_k": Block(256, 84), "q3_k": Block(256, 110), "q4_k": Block(256, 144), "q5_k": Block(256, 176),
    "q6_k": Block(256, 210), "iq4_nl": Block(32, 18), "iq4_xs": Block(256, 136),
}  # fmt: skip
"""Formats whose one array is ``blocks`` u8 [n, bytes of k]."""

FORMATS = (*DENSE, *CODES, *BLOCKS)


def groups_of(k: int, group: int) -> int:
    """Scales of a row of k inputs; the last group may be short."""
    return -(-k // group)


def unsaid(data: WeightData, role: str) -> Array:
    """What an array means that is absent from one expert of several: no zero points, groups in a row."""
    if role == "zeros":
        return np.zeros_like(data.arrays["scales"])
    if role == "g_idx":
        return np.arange(data.shape[-1], dtype=np.int32) // np.int32(data.params["group"])
    raise CheckpointError(f"a {data.format} weight has no {role}")


def check(data: WeightData, name: str) -> WeightData:
    """``data``, if its arrays are what its format, shape and params say. Raises ``CheckpointError`` naming ``name``."""
    if data.format in DENSE:
        _expect(data, name, "weight", DENSE[data.format], data.shape)
        return data
    if len(data.shape) < 2:
        raise CheckpointError(f"{name}: a {data.format} weight must be a matrix, found {list(data.shape)}")
    *lead, k = data.shape
    if data.format in BLOCKS:
        block = BLOCKS[data.format]
        if k % block.elements:
            raise CheckpointError(f"{name}: {k} inputs are no whole number of {data.format} blocks of {block.elements}")
        _expect(data, name, "blocks", "uint8", (*lead, k // block.elements * block.nbytes))
        return data
    if data.format not in CODES:
        raise UnsupportedError(f"{name}: format '{data.format}' is unknown; known: {', '.join(FORMATS)}")
    _check_codes(data, name, tuple(lead), k)
    return data


def _check_codes(data: WeightData, name: str, lead: tuple[int, ...], k: int) -> None:
    dtype, per_element = CODES[data.format]
    group = data.params.get("group")
    if not isinstance(group, int) or not 0 < group <= k:
        raise CheckpointError(f"{name}: a group of {group} inputs does not fit {k} inputs")
    if k % per_element:
        raise CheckpointError(f"{name}: {k} inputs do not divide into pairs of {data.format} codes")
    if PLAIN in data.arrays:  # still to be rounded
        if data.arrays[PLAIN].shape != data.shape or k % group:
            raise CheckpointError(f"{name}: {list(data.arrays[PLAIN].shape)} cannot be rounded in groups of {group}")
        return
    _expect(data, name, "weight", dtype, (*lead, k // per_element))
    groups = (*lead, groups_of(k, group))
    _expect(data, name, "scales", "float32", groups)
    if "zeros" in data.arrays or data.format == "int4":
        _expect(data, name, "zeros", "float32", groups)
    if "g_idx" in data.arrays:
        index = _expect(data, name, "g_idx", "int32", (*lead[:-1], k))
        if "g_idx" not in data.shared or int(index.min()) < 0 or int(index.max()) >= groups[-1]:
            raise CheckpointError(f"{name}: g_idx names groups outside 0..{groups[-1] - 1}")
    if data.params.get("act", "int8") not in ACTIVATIONS:
        raise UnsupportedError(f"{name}: inputs quantised as {data.params['act']} are unknown")


def _expect(data: WeightData, name: str, role: str, dtype: str, shape: tuple[int, ...]) -> Array:
    array = data.arrays.get(role)
    if array is None:
        raise CheckpointError(f"{name}: a {data.format} weight has no {role}")
    if array.dtype != np.dtype(dtype) if dtype != "bfloat16" else array.dtype.name != dtype:
        raise CheckpointError(f"{name}: {role} of {data.format} must be {dtype}, found {array.dtype}")
    if array.shape != shape:
        raise CheckpointError(f"{name}: {role} of {data.format} must be {list(shape)}, found {list(array.shape)}")
    return array
