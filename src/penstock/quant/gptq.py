"""GPTQ: 4- or 8-bit codes as AutoGPTQ and GPTQModel write them.

    qweight int32 [k / per, n]    qzeros int32 [groups, n / per]    scales f16 [groups, n]    g_idx int32 [k]

``per`` = 32 / bits codes in a word, low bits first. w = (code - zero) * scale, with the zero stored less one (modulo
2^bits) by ``checkpoint_format`` "gptq" and as it is by "gptq_v2". ``g_idx`` says which group an input belongs to; with
desc_act they are not in a row. Weights are in the model's own order of inputs either way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from penstock.errors import CheckpointError
from penstock.models.program import WeightSpec
from penstock.quant.formats import groups_of
from penstock.quant.parts import FLOATS, as_words, coded, group_size, matrix, part, scales_of, words_to_bytes
from penstock.quant.scheme import Array, WeightData
from penstock.quant.words import by_rows, transposed


@dataclass(frozen=True, slots=True)
class GptqScheme:
    """``bits`` 4 or 8; ``v2`` zero points are stored as they are; ``sym`` needs none."""

    bits: int
    group: int
    sym: bool
    v2: bool = False
    name: str = "gptq"

    def parts(self, spec: WeightSpec) -> tuple[str, ...]:
        return ("qweight", "qzeros?" if self.sym else "qzeros", "scales", "g_idx?")

    def words(self, spec: WeightSpec, tensors: Mapping[str, Array]) -> WeightData | None:
        n, k, group = self._sizes(spec)
        if self.bits != 4 or self._index(tensors, k, group) is not None:
            return None
        groups = groups_of(k, group)
        part(tensors, "qweight", ("int32",), (k // 8, n))
        part(tensors, "scales", FLOATS, (groups, n))
        if "qzeros" in tensors:
            part(tensors, "qzeros", ("int32",), (groups, groups_of(n, 8)))
        return as_words("gptq", tensors, (n, k), group, 0 if self.v2 else 1)

    def _sizes(self, spec: WeightSpec) -> tuple[int, int, int]:
        n, k = matrix(spec.shape)
        if k % (32 // self.bits):
            raise CheckpointError(f"{k} inputs are no whole number of words of {32 // self.bits} codes")
        return n, k, group_size(self.group, k)

    def build(self, spec: WeightSpec, tensors: Mapping[str, Array]) -> WeightData:
        n, k, group = self._sizes(spec)
        per, groups = 32 // self.bits, groups_of(k, group)
        scales = by_rows(scales_of(tensors, "scales", (groups, n)))
        qweight = part(tensors, "qweight", ("int32",), (k // per, n))
        codes = transposed(qweight) if self.bits == 4 else transposed(qweight, flip=0x80).view(np.int8)
        data = coded(self.bits, codes, scales, self._zeros(tensors, groups, n), k, group)
        index = self._index(tensors, k, group)
        if index is None:
            return data
        return replace(data, arrays={**data.arrays, "g_idx": index}, shared=frozenset({"g_idx"}))

    def _zeros(self, tensors: Mapping[str, Array], groups: int, n: int) -> NDArray[np.float32]:
        if "qzeros" not in tensors:
            return np.full((n, groups), 1 << (self.bits - 1), np.float32)
        words = part(tensors, "qzeros", ("int32",), (groups, groups_of(n, 32 // self.bits)))
        codes = words_to_bytes(words)
        if self.bits == 4:
            codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(groups, -1)
        if not self.v2:
            codes = (codes + np.uint8(1)) & np.uint8((1 << self.bits) - 1)
        return by_rows(codes[:, :n].astype(np.float32))

    def _index(self, tensors: Mapping[str, Array], k: int, group: int) -> NDArray[np.int32] | None:
        """The groups of the inputs, None where they are in a row."""
        if "g_idx" not in tensors:
            return None
        index = part(tensors, "g_idx", ("int32", "int64"), (k,))
        return None if np.array_equal(index, np.arange(k) // group) else index.astype(np.int32)
