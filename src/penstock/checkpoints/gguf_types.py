"""Every tensor type that GGUF files may name: those that run, and those that are refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from penstock.errors import UnsupportedError
from penstock.quant.formats import BLOCKS


@dataclass(frozen=True, slots=True)
class GgmlType:
    """``name`` in lower case (for blocks a format of `quant.formats.BLOCKS`); a block is ``elements`` in ``nbytes``."""

    name: str
    elements: int
    nbytes: int
    dtype: np.dtype[np.generic] | None = None


PLAIN = {
    0: ("f32", np.dtype("<f4")), 1: ("f16", np.dtype("<f2")), 24: ("i8", np.dtype("i1")), 25: ("i16", np.dtype("<i2")),
    26: ("i32", np.dtype("<i4")), 27: ("i64", np.dtype("<i8")), 28: ("f64", np.dtype("<f8")),
    30: ("bf16", np.dtype(ml_dtypes.bfloat16)),
}  # fmt: skip
BLOCK_IDS = {
    2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 10: "q2_k", 11: "q3_k", 12: "q4_k", 13: "q5_k", 14: "q6_k",
    20: "iq4_nl", 23: "iq4_xs",
}  # fmt: skip
REFUSED = {
    4: "q4_2", 5: "q4_3", 9: "q8_1", 15: "q8_k", 16: "iq2_xxs", 17: "iq2_xs", 18: "iq3_xxs", 19: "iq1_s", 21: "iq3_s",
    22: "iq2_s", 29: "iq1_m", 31: "q4_0_4_4", 32: "q4_0_4_8", 33: "q4_0_8_8", 34: "tq1_0", 35: "tq2_0",
    36: "iq4_nl_4_4", 37: "iq4_nl_4_8", 38: "iq4_nl_8_8", 39: "mxfp4", 40: "nvfp4", 41: "q1_0", 42: "q2_0",
}  # fmt: skip

TYPES = {
    **{number: GgmlType(name, 1, dtype.itemsize, dtype) for number, (name, dtype) in PLAIN.items()},
    **{number: GgmlType(name, BLOCKS[name].elements, BLOCKS[name].nbytes) for number, name in BLOCK_IDS.items()},
}
"""By ggml's number."""


def type_of(number: int, tensor: str, path: Path) -> GgmlType:
    """The type ``number`` of ``tensor``. Raises ``UnsupportedError`` for one that does not run."""
    found = TYPES.get(number)
    if found is None:
        name = REFUSED.get(number, f"number {number:,}")
        known = ", ".join(name.upper() for name in ("f32", "f16", "bf16", *BLOCK_IDS.values()))
        raise UnsupportedError(
            f"{path}: tensor '{tensor}' has the type {name.upper()}, which cannot be read; use a file whose "
            f"tensors are {known}"
        )
    return found
