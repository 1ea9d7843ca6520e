"""A constraint for answers that think first: between ``<think>`` and ``</think>`` all is free, for so many tokens at
most; then an inner constraint holds, or none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from penstock.errors import RequestError
from penstock.types import U32, Constraint

if TYPE_CHECKING:
    from penstock.text.tokenizer import Tokenizer

THINK, THOUGHT = b"<think>", b"</think>"


@dataclass(slots=True, eq=False)
class Anything:
    """Every token of ``free``, and those of ``ends`` from ``min_tokens`` on."""

    free: U32
    ends: U32
    min_tokens: int = 0
    count: int = 0

    def mask(self) -> U32:
        return self.free if self.count < self.min_tokens else self.free | self.ends

    def accept(self, token: int) -> None:
        self.count += 1

    def copy(self) -> Anything:
        return replace(self)


@dataclass(slots=True, eq=False)
class AfterThoughts:
    """``inner`` behind the thoughts. ``free``: bits of what may be thought, in which nothing ends the answer.

    ``start``: the token that begins thoughts, where there is one and none were begun by the prompt; ``inside``: the
    prompt began them. ``text``: a token's bytes. After ``budget`` tokens of thought, the tokens ``close`` follow.
    """

    inner: Constraint
    free: U32
    text: Callable[[int], bytes]
    start: int | None = None
    inside: bool = False
    budget: int | None = None
    close: tuple[int, ...] = ()
    tail: bytes = b""
    spent: int = 0

    def mask(self) -> U32:
        if self.inside:
            over = -1 if self.budget is None else self.spent - self.budget
            return self.free if over < 0 else _with(self.free * np.uint32(0), self.close[over])
        mask = self.inner.mask()
        return mask if self.start is None else _with(mask, self.start)

    def accept(self, token: int) -> None:
        if self.inside:
            self.spent += 1
            self.tail = (self.tail + self.text(token))[-64:]
            self.inside = THOUGHT not in self.tail
            return
        start, self.start = self.start, None
        if token == start:
            self.inside = True
        else:
            self.inner.accept(token)

    def copy(self) -> AfterThoughts:
        return replace(self, inner=self.inner.copy())


def spelt(tokenizer: Tokenizer, text: bytes) -> tuple[int, ...]:
    """Tokens for ``text`` in the middle of another. Raises ``RequestError`` if there are none."""
    for before in ("", "\n"):
        ids = tokenizer.encode(before + text.decode(), add_special_tokens=False)
        for start in range(len(ids)):
            if b"".join(map(tokenizer.token_bytes, ids[start:])) == text:
                return tuple(ids[start:])
    raise RequestError(f"this tokenizer cannot spell {text.decode()}: leave out the budget of thoughts")


def _with(mask: U32, token: int) -> U32:
    mask = mask.copy()
    mask[token // 32] |= np.uint32(1 << (token % 32))
    return mask
