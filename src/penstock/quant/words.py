"""32-bit words of codes that lie by columns, turned into rows.

In C++ (csrc/formats/unpack.h), a piece on each thread; in numpy, much slower, where the extension is not there. Both
give the same bytes.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.quant.scheme import Array
from penstock.quant.threads import in_pieces

ORDER = np.array([0, 2, 4, 6, 1, 3, 5, 7])
"""The output that nibble i of an AWQ word belongs to."""
PIECE = 1 << 16
"""Words that a thread works on at a time."""


def extension() -> Any | None:
    """The compiled part; None where only the torch executor can run."""
    try:
        return import_module("penstock._native")
    except ImportError:
        return None


def transposed(words: Array, flip: int = 0) -> NDArray[np.uint8]:
    """int32 [a, b] -> bytes [b, 4 a]: a column's words one after the other, lowest byte first, each byte ^ ``flip``."""
    out = np.empty((words.shape[1], 4 * words.shape[0]), np.uint8)
    native, words = extension(), _plain(words)
    if native is not None and words.size:
        each = flip * 0x01010101
        in_pieces(words.shape[1], _step(words), lambda piece: native.transpose_words(words[:, piece], out[piece], each))
    else:
        np.bitwise_xor(np.ascontiguousarray(words.T).view(np.uint8), np.uint8(flip), out=out)
    return out


def awq_rows(words: Array) -> NDArray[np.uint8]:
    """AWQ's int32 [k, n/8] -> bytes [n, k/2] with two inputs of one output row in each, the first one low."""
    k, columns = words.shape
    out = np.empty((columns, 8, k // 2), np.uint8)
    native, words = extension(), _plain(words)
    if native is not None and words.size:
        rows = out.reshape(8 * columns, k // 2)
        in_pieces(columns, _step(words), lambda at: native.unpack_awq(words[:, at], rows[8 * at.start : 8 * at.stop]))
        return rows
    both = np.ascontiguousarray(words.T).view("<u8")  # an even input's word, an odd one's above it
    for i, column in enumerate(ORDER):
        moved = both >> np.uint64(4 * i)
        out[:, column] = moved & np.uint64(15) | moved >> np.uint64(28) & np.uint64(0xF0)
    return out.reshape(8 * columns, k // 2)


def by_rows(columns: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [a, b] -> [b, a], in its own memory."""
    return transposed(columns.view(np.int32)).view(np.float32)


def _step(words: Array) -> int:
    """Columns of a piece: whole cache lines."""
    return max(16, PIECE // len(words) // 16 * 16)


def _plain(words: Array) -> Array:
    """The machine's own int32, rows of contiguous words."""
    return words if words.dtype == np.int32 and words.strides[1] == 4 else np.ascontiguousarray(words, np.int32)
