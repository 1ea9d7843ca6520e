"""AWQ: 4-bit codes with zero points, in the GEMM layout of AutoAWQ.

    qweight int32 [k, n/8]        qzeros int32 [k/group, n/8]        scales f16 [k/group, n]

A word holds eight output columns: its nibble i is column 8 c + ORDER[i]. w = (code - zero) * scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.errors import CheckpointError
from penstock.models.program import WeightSpec
from penstock.quant.formats import groups_of
from penstock.quant.parts import FLOATS, as_words, coded, group_size, matrix, part, scales_of, words_to_bytes
from penstock.quant.scheme import Array, WeightData
from penstock.quant.words import ORDER, awq_rows, by_rows


@dataclass(frozen=True, slots=True)
class AwqScheme:
    """``group`` inputs share a scale and a zero point; -1 is a whole row."""

    group: int
    name: str = "awq"

    def parts(self, spec: WeightSpec) -> tuple[str, ...]:
        return ("qweight", "qzeros", "scales")

    def words(self, spec: WeightSpec, tensors: Mapping[str, Array]) -> WeightData | None:
        n, k, group = self._sizes(spec)
        groups = groups_of(k, group)
        part(tensors, "qweight", ("int32",), (k, n // 8))
        part(tensors, "qzeros", ("int32",), (groups, n // 8))
        part(tensors, "scales", FLOATS, (groups, n))
        return as_words("awq", tensors, (n, k), group)

    def _sizes(self, spec: WeightSpec) -> tuple[int, int, int]:
        n, k = matrix(spec.shape)
        group = group_size(self.group, k)
        if n % 8 or k % group or k % 2:
            raise CheckpointError(f"a weight of {n} x {k} cannot be AWQ in groups of {group}")
        return n, k, group

    def build(self, spec: WeightSpec, tensors: Mapping[str, Array]) -> WeightData:
        n, k, group = self._sizes(spec)
        groups = groups_of(k, group)
        scales = by_rows(scales_of(tensors, "scales", (groups, n)))
        zeros = by_rows(unpack_columns(part(tensors, "qzeros", ("int32",), (groups, n // 8))).astype(np.float32))
        codes = awq_rows(part(tensors, "qweight", ("int32",), (k, n // 8)))
        return coded(4, codes, scales, zeros, k, group)


def unpack_columns(words: Array) -> NDArray[np.uint8]:
    """int32 [m, n/8] -> codes [m, n]."""
    packed = words_to_bytes(words).reshape(words.shape[0], -1, 4)
    codes = np.empty((*packed.shape[:2], 8), np.uint8)
    codes[:, :, ORDER[0::2]] = packed & 15
    codes[:, :, ORDER[1::2]] = packed >> 4
    return codes.reshape(words.shape[0], -1)
