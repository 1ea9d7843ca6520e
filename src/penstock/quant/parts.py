"""What schemes share: checked tensors, scales spread over rows, words of packed codes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from penstock.errors import CheckpointError
from penstock.quant.formats import groups_of
from penstock.quant.scheme import WORDS, Array, WeightData
from penstock.quant.threads import in_pieces

F32 = NDArray[np.float32]
PIECE = 1 << 20
"""Codes that a thread turns at a time."""
FLOATS = ("float32", "float16", "bfloat16", "float64", "float8_e8m0fnu")


def part(tensors: Mapping[str, Array], name: str, dtypes: tuple[str, ...], *shapes: tuple[int, ...]) -> Array:
    """The tensor ``name``, of one of ``dtypes`` and ``shapes`` (any shape when none is given)."""
    array = tensors[name]
    if array.dtype.name not in dtypes:
        raise CheckpointError(f"{name} must be {' or '.join(dtypes)}, found {array.dtype}")
    if shapes and array.shape not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise CheckpointError(f"{name} must be {wanted}, found {list(array.shape)}")
    return array


def scales_of(tensors: Mapping[str, Array], name: str, *shapes: tuple[int, ...]) -> F32:
    """Finite scales or zero points in float32. A copy, so that the file's pages can go."""
    scales = part(tensors, name, (*FLOATS, "int8", "uint8", "int32"), *shapes).astype(np.float32)
    if not np.isfinite(scales).all():
        raise CheckpointError(f"{name} holds numbers that are not finite")
    return scales


def matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and inputs of a weight that must be a matrix."""
    if len(shape) != 2:
        raise CheckpointError(f"a quantised weight must be a matrix, the model wants {list(shape)}")
    return shape[0], shape[1]


def group_size(group: int | None, k: int) -> int:
    """The inputs a scale serves: -1, 0 and None mean all of a row, as does more than there are."""
    return k if group is None or group <= 0 else min(group, k)


def spread(scales: F32, n: int, k: int, block: tuple[int, int] | None = None, group: int | None = None) -> F32:
    """Scales of a tensor, of rows, of groups or of blocks as [n, groups].

    ``block`` (rows, inputs) says that one scale serves such a rectangle, the last ones being cut; ``group`` inputs of
    one row otherwise.
    """
    if scales.size == 1:
        return np.ascontiguousarray(np.broadcast_to(scales.reshape(1, 1), (n, 1)))
    if block is not None:
        wanted = (groups_of(n, block[0]), groups_of(k, block[1]))
        if scales.shape != wanted:
            raise CheckpointError(
                f"the scales must be {list(wanted)} for blocks of {block[0]} x {block[1]}, found {list(scales.shape)}"
            )
        return np.repeat(scales, block[0], axis=0)[:n]
    wanted = (n, groups_of(k, group_size(group, k)))
    if scales.shape not in (wanted, (n,)) or scales.size != wanted[0] * wanted[1]:
        raise CheckpointError(f"the scales must be {list(wanted)}, found {list(scales.shape)}")
    return scales.reshape(wanted)


def words_to_bytes(words: Array) -> NDArray[np.uint8]:
    """int32 [rows, m] as bytes [rows, 4 m], the lowest byte of a word first."""
    return np.ascontiguousarray(words, dtype="<i4").view(np.uint8)


def as_words(
    layout: str, tensors: Mapping[str, Array], shape: tuple[int, int], group: int, plus: int = 0
) -> WeightData | None:
    """AWQ's or GPTQ's 4-bit tensors, of checked types and shapes, as they are; None where they must become rows."""
    n, k = shape
    words, scales, zeros = tensors["qweight"], tensors["scales"], tensors.get("qzeros")
    given = [array for array in (words, scales, zeros) if array is not None]
    if n % 16 or group % 8 or k % group or scales.dtype != np.float16 or not all(a.flags.c_contiguous for a in given):
        return None
    if ((scales.view(np.uint16) & 0x7C00) == 0x7C00).any():
        raise CheckpointError("scales holds numbers that are not finite")
    arrays = {WORDS: words, "word_scales": scales} | ({} if zeros is None else {"word_zeros": zeros})
    return WeightData("int4", shape, arrays, params={"group": group, "layout": layout, "plus": plus})


def _signed(codes: Array) -> Array:
    """Codes 0..255 as int8, less 128; int8 as it is."""
    if codes.dtype == np.int8:
        return codes
    out = np.empty(codes.shape, np.uint8)
    in_pieces(
        codes.shape[0], max(1, PIECE // codes.shape[1]),
        lambda piece: np.bitwise_xor(codes[piece], np.uint8(0x80), out=out[piece]),
    )  # fmt: skip
    return out.view(np.int8)


def coded(bits: int, codes: Array, scales: F32, zeros: F32, k: int, group: int, **params: str) -> WeightData:
    """int4 from packed codes [n, k/2]; int8 from codes 0..255 [n, k], or from those less 128, which are int8.

    ``zeros`` count from 0 in any case; an int8 weight without any has all in the middle.
    """
    arrays: dict[str, Array] = {"weight": codes, "zeros": zeros}
    if bits == 8:
        arrays = {"weight": _signed(codes)} | ({"zeros": zeros - np.float32(128)} if (zeros != 128).any() else {})
    return WeightData(
        f"int{bits}", (scales.shape[0], k), {**arrays, "scales": scales}, params={"group": group, **params}
    )
