"""What the numbers of a :class:`WeightData` are: the reference meaning of every format, in float32."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from penstock.errors import UnsupportedError
from penstock.quant.scheme import WeightData

Dequantiser = Callable[[WeightData], NDArray[np.float32]]


def _dense(data: WeightData) -> NDArray[np.float32]:
    return np.array(data.arrays["weight"], dtype=np.float32, order="C", copy=True)


DEQUANTISERS: dict[str, Dequantiser] = {"f32": _dense, "f16": _dense, "bf16": _dense}
"""By ``WeightData.format``."""


def dequantise(data: WeightData) -> NDArray[np.float32]:
    """A fresh float32 array of ``data.shape``. Raises ``UnsupportedError`` for a format without a meaning here."""
    function = DEQUANTISERS.get(data.format)
    if function is None:
        raise UnsupportedError(
            f"format '{data.format}' cannot be turned into float32; known: {', '.join(DEQUANTISERS)}"
        )
    array = function(data)
    if array.shape != data.shape:
        raise ValueError(f"format '{data.format}' gave {array.shape} for a weight of shape {data.shape}")
    return array
