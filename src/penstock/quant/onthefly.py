"""Which plain weights become int8 or int4 while they are read.

Matrices of linears and experts only; routers, gates and tables stay as they are, and an output projection is int8 under
either wish. `rounding` says how; docs/formats.md states the errors.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from penstock.models.program import WeightSpec
from penstock.quant.dequantise import dequantise
from penstock.quant.formats import DENSE
from penstock.quant.rounding import rounded, to_round
from penstock.quant.scheme import WeightData

Convert = Callable[[WeightSpec, WeightData], WeightData]

INT8_GROUP, INT4_GROUP = 128, 32
KEPT = ("router.weight", "shared_gate.weight")
HEADS = ("head.weight", "embed.weight")


def converter(method: str, group: int | None = None) -> Convert:
    """The conversion ``int8`` or ``int4``, of ``group`` inputs a scale: weights *to be rounded*."""

    def convert(spec: WeightSpec, data: WeightData) -> WeightData:
        if data.format not in DENSE or spec.kind not in ("matrix", "experts") or spec.name.endswith(KEPT):
            return data
        bits = 8 if method == "int8" or spec.name in HEADS else 4
        return to_round(data, bits, group or (INT8_GROUP if bits == 8 else INT4_GROUP))

    return convert


def quantise(data: WeightData, bits: int, group: int) -> WeightData:
    """A dense weight as int8 or int4 at once."""
    return rounded(to_round(data, bits, group))


def error_of(data: WeightData, made: WeightData) -> float:
    """The root mean square of what ``made`` changed, by that of ``data``."""
    a, b = dequantise(data), dequantise(made)
    return float(np.sqrt(np.square(a - b).mean() / max(float(np.square(a).mean()), 1e-30)))
