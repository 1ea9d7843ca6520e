"""Weights stored as int8 or float8 numbers with scales beside them: one scheme for all tools that write them so.

    weight      int8 or float8_e4m3fn [n, k]
    scale       one for the tensor, one a row [n] or [n, 1], [n, groups], or [ceil(n / rows), ceil(k / inputs)] blocks
    zero point  int8, as the scales; rarely there

w = (weight - zero) * scale. compressed-tensors' int-, float- and naive-quantized, DeepSeek's and others' fp8 (whose
``weight_scale_inv`` multiplies, too), fbgemm_fp8, and what SmoothQuant tools write. Scales for inputs that were fixed
by calibration are read and not used: inputs are quantised with a scale of their own row, which fits them better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from penstock.errors import CheckpointError
from penstock.models.program import WeightSpec
from penstock.quant.parts import group_size, matrix, part, scales_of, spread
from penstock.quant.scheme import Array, WeightData

UNUSED = ("input_scale?", "input_zero_point?", "activation_scale?", "input_scale_ub?")
TYPES = {"int8": "int8", "float8_e4m3fn": "fp8"}


@dataclass(frozen=True, slots=True)
class CodedScheme:
    """``scale`` and ``zero`` name tensors; ``block`` or ``group`` say what one scale serves; ``act`` is the param."""

    name: str
    scale: str = "weight_scale"
    zero: str = "weight_zero_point"
    block: tuple[int, int] | None = None
    group: int | None = None
    act: str = ""

    def parts(self, spec: WeightSpec) -> tuple[str, ...]:
        return ("weight", self.scale, f"{self.zero}?", *UNUSED)

    def build(self, spec: WeightSpec, tensors: Mapping[str, Array]) -> WeightData:
        n, k = matrix(spec.shape)
        weight = part(tensors, "weight", tuple(TYPES), (n, k))
        fmt = TYPES[weight.dtype.name]
        scales = spread(scales_of(tensors, self.scale), n, k, self.block, self.group)
        arrays = {"weight": weight.view(np.uint8) if fmt == "fp8" else weight, "scales": scales}
        if self.zero in tensors:
            if fmt == "fp8":
                raise CheckpointError(f"{self.zero} makes no sense for float8 numbers")
            zeros = spread(scales_of(tensors, self.zero), n, k, self.block, self.group)
            arrays |= {"zeros": zeros} if zeros.any() else {}
        params: dict[str, int | float | str] = {"group": self._group(k, scales.shape[1])}
        return WeightData(fmt, (n, k), arrays, params=params | ({"act": self.act} if self.act else {}))

    def _group(self, k: int, groups: int) -> int:
        if groups == 1:
            return k
        return self.block[1] if self.block is not None else group_size(self.group, k)
