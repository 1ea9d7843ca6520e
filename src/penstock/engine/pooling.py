"""One vector of a whole prompt, from the hidden states that steps give: their mean, or the last one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ContextLengthError, RequestError
from penstock.types import F32

KINDS = ("mean", "last")


@dataclass(slots=True, eq=False)
class Pooling:
    """What becomes of a prompt's rows. Sums row by row in float64, so that chunks make no difference to any bit."""

    kind: Literal["mean", "last"]
    _total: NDArray[np.float64] | None = None

    def take(self, start: int, rows: F32) -> None:
        """``rows`` [n, H] of tokens ``start`` …; a start of 0 begins anew (a preempted prompt is computed again)."""
        if self.kind == "last":
            self._total = rows[-1].astype(np.float64)
            return
        if self._total is None or start == 0:
            self._total = np.zeros(rows.shape[1], np.float64)
        for row in rows:
            self._total += row

    def vector(self, count: int) -> F32:
        """[H] of a prompt of ``count`` tokens, all taken."""
        assert self._total is not None
        return (self._total / (count if self.kind == "mean" else 1)).astype(np.float32)


def make_pooling(kind: str | None) -> Pooling | None:
    if kind is None:
        return None
    if kind not in KINDS:
        raise RequestError(f"pooling must be one of {', '.join(KINDS)}, got {kind!r:.40}", "pooling")
    return Pooling("mean" if kind == "mean" else "last")


def check_fits(prompt_len: int, longest: int, cache_tokens: int) -> None:
    """Raises ``ContextLengthError`` for a prompt that fits neither, even with nothing to generate behind it."""
    if prompt_len > longest:
        raise ContextLengthError(
            f"the prompt has {prompt_len} tokens, more than the context of {longest}: shorten it or raise "
            "max_model_len",
            "prompt",
        )
    if prompt_len > cache_tokens:
        raise ContextLengthError(
            f"the prompt has {prompt_len} tokens, more than the KV cache of {cache_tokens}: raise kv_cache_memory",
            "prompt",
        )
