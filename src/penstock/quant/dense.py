"""Plain numbers: float32, float16, bfloat16 as they stand in the file."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from penstock.errors import UnsupportedError
from penstock.models.program import WeightSpec
from penstock.quant.scheme import Array, WeightData

FORMATS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


class DenseScheme:
    """One tensor, ``weight``, kept in its own type; float64 becomes float32."""

    name = "dense"

    def parts(self, spec: WeightSpec) -> tuple[str, ...]:
        return ("weight",)

    def build(self, spec: WeightSpec, tensors: Mapping[str, Array]) -> WeightData:
        array = tensors["weight"]
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        fmt = FORMATS.get(array.dtype.name)
        if fmt is None:
            raise UnsupportedError(
                f"weight '{spec.name}' is stored as {array.dtype.name}; a plain weight must be float32, float16 or "
                "bfloat16 (a quantised checkpoint needs its quantization_config in config.json)"
            )
        return WeightData(fmt, tuple(array.shape), {"weight": array})
