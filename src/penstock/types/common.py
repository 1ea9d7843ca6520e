"""Array types, and the small error every check uses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.errors import RequestError

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
U32 = NDArray[np.uint32]
U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]


def bad(name: str, value: object, want: str) -> RequestError:
    """The error for a field that is not what it must be."""
    return RequestError(f"{name} must be {want}, got {value!r}", name)
