"""A constraint for answers that think first: what is between ``<think>`` and ``</think>`` is free, then it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from penstock.types import U32, Constraint

THINK, THOUGHT = b"<think>", b"</think>"


@dataclass(slots=True, eq=False)
class AfterThoughts:
    """``inner`` behind the thoughts. ``free``: bits of what may be thought, in which nothing ends the answer.

    ``start``: the token that begins thoughts, where there is one and none were begun by the prompt; ``inside``: the
    prompt began them. ``text``: a token's bytes.
    """

    inner: Constraint
    free: U32
    text: Callable[[int], bytes]
    start: int | None = None
    inside: bool = False
    tail: bytes = b""

    def mask(self) -> U32:
        if self.inside:
            return self.free
        mask = self.inner.mask()
        if self.start is None:
            return mask
        mask = mask.copy()
        mask[self.start // 32] |= np.uint32(1 << (self.start % 32))
        return mask

    def accept(self, token: int) -> None:
        if self.inside:
            self.tail = (self.tail + self.text(token))[-64:]
            self.inside = THOUGHT not in self.tail
            return
        start, self.start = self.start, None
        if token == start:
            self.inside = True
        else:
            self.inner.accept(token)

    def copy(self) -> AfterThoughts:
        return AfterThoughts(self.inner.copy(), self.free, self.text, self.start, self.inside, self.tail)
