"""compressed-tensors' pack-quantized: signed codes moved up to 0..2^bits - 1 and packed along the inputs.

weight_packed int32 [n, k bits / 32], low bits first    weight_scale [n, groups]    weight_shape int64 [2]
weight_zero_point int32 [n bits / 32, groups], packed along the rows (asymmetric)   weight_g_idx int32 [k]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from penstock.errors import CheckpointError
from penstock.models.program import WeightSpec
from penstock.quant.dequantise import unpack_int4
from penstock.quant.formats import groups_of
from penstock.quant.parts import coded, group_size, matrix, part, scales_of, spread, words_to_bytes
from penstock.quant.scheme import Array, WeightData


@dataclass(frozen=True, slots=True)
class PackedScheme:
    """``bits`` 4 or 8; ``group`` inputs a scale, None for a row (or the tensor)."""

    bits: int
    symmetric: bool
    group: int | None = None
    act: str = ""
    name: str = "pack-quantized"

    def parts(self, spec: WeightSpec) -> tuple[str, ...]:
        zero = "weight_zero_point?" if self.symmetric else "weight_zero_point"
        return ("weight_packed", "weight_scale", zero, "weight_shape?", "weight_g_idx?", "input_scale?")

    def build(self, spec: WeightSpec, tensors: Mapping[str, Array]) -> WeightData:
        n, k = matrix(spec.shape)
        if "weight_shape" in tensors:
            shape = part(tensors, "weight_shape", ("int64", "int32"), (2,)).tolist()
            if shape != [n, k]:
                raise CheckpointError(f"weight_shape says {shape}, the model wants {[n, k]}")
        group, nbytes = group_size(self.group, k), k * self.bits // 8
        if k * self.bits % 8:
            raise CheckpointError(f"{k} inputs of {self.bits} bits do not fill bytes")
        words = part(tensors, "weight_packed", ("int32",), (n, groups_of(k * self.bits, 32)))
        codes = np.ascontiguousarray(words_to_bytes(words)[:, :nbytes])
        scales = spread(scales_of(tensors, "weight_scale"), n, k, group=self.group)
        data = coded(self.bits, codes, scales, self._zeros(tensors, *scales.shape), k, group)
        if self.act:
            data = replace(data, params={**data.params, "act": self.act})
        if "weight_g_idx" in tensors:
            index = part(tensors, "weight_g_idx", ("int32", "int64"), (k,)).astype(np.int32)
            if not (index == -1).all() and not np.array_equal(index, np.arange(k) // group):  # -1: no order was made
                data = replace(data, arrays={**data.arrays, "g_idx": index}, shared=frozenset({"g_idx"}))
        return data

    def _zeros(self, tensors: Mapping[str, Array], n: int, groups: int) -> NDArray[np.float32]:
        middle = np.float32(1 << (self.bits - 1))
        if "weight_zero_point" not in tensors:
            return np.full((n, groups), middle, np.float32)
        if tensors["weight_zero_point"].dtype == np.int8:  # as it is, not packed
            return scales_of(tensors, "weight_zero_point", (n, groups)) + middle
        words = part(tensors, "weight_zero_point", ("int32",), (groups_of(n * self.bits, 32), groups))
        columns = words_to_bytes(np.ascontiguousarray(words.T))
        codes = unpack_int4(columns) if self.bits == 4 else columns
        return np.ascontiguousarray(codes[:, :n].T.astype(np.float32))
