"""One answer's place in a grammar."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.errors import ExecutionError
from penstock.types import U32

# CPU time for masks: what an answer may owe, and what each token pays back. Usual masks take 20 to 200 µs.
DEBT_SECONDS = 1.0
TOKEN_SECONDS = 0.01


class StructuredOutputError(ExecutionError):
    """A grammar cannot be followed any further; ends the answer concerned."""


@dataclass(slots=True, eq=False)
class Usage:
    """What all answers of one compiled grammar have cost so far: they share its automaton, which grows."""

    tokens: int = 0
    seconds: float = 0.0


class GrammarConstraint:
    """A :class:`penstock.types.Constraint` over a matcher. Used by one thread at a time; copies are independent.

    ``ends`` [ceil(vocab / 32)] has the bits of the end tokens. They are allowed where the grammar may end, but before
    ``min_tokens`` only if nothing else is. ``allowed``: bits of the only tokens that may be taken. A token that was
    accepted is taken by the grammar when the next mask is asked for: that is the costly part, and may be done
    elsewhere than where tokens are accepted.
    """

    def __init__(self, matcher: Any, ends: U32, usage: Usage, min_tokens: int = 0, allowed: U32 | None = None) -> None:
        self._matcher = matcher
        self._ends = ends
        self._usage = usage
        self._min_tokens = min_tokens
        self._only = allowed
        self._count = 0
        self._debt = 0.0
        self._ended = False
        self._mask: U32 = ends
        self._taken: int | None = None
        self._next()

    def mask(self) -> U32:
        """[ceil(vocab / 32)] bits of the tokens that may come next; not to be written to.

        Raises ``ExecutionError`` at a limit of the grammar.
        """
        self._settle()
        if self._count < self._min_tokens:
            others = self._mask & ~self._ends
            return others if others.any() else self._mask
        return self._mask

    def accept(self, token: int) -> None:
        """Move on by a token. Raises ``ExecutionError`` for one that is not allowed."""
        self._settle()
        if not self._allows(token):
            raise StructuredOutputError(f"token {token} does not fit the structured output")
        self._count += 1
        self._usage.tokens += 1
        if self._ended or self._ends[token // 32] >> np.uint32(token % 32) & 1:
            self._ended, self._mask = True, self._ends
            return
        self._taken = token

    def _settle(self) -> None:
        """Let the grammar take the token that was accepted last."""
        token, self._taken = self._taken, None
        if token is None:
            return
        if not self._matcher.consume_token(token):
            raise StructuredOutputError(_failed(self._matcher))
        self._next()

    def copy(self) -> GrammarConstraint:
        other = GrammarConstraint.__new__(GrammarConstraint)
        other._matcher = self._matcher.deep_copy()
        other._ends, other._usage = self._ends, self._usage
        other._min_tokens, other._only = self._min_tokens, self._only
        other._count, other._debt, other._ended = self._count, self._debt, self._ended
        other._mask, other._taken = self._mask, self._taken
        return other

    def _allows(self, token: int) -> bool:
        return 0 <= token < 32 * len(self._mask) and bool(self._mask[token // 32] >> np.uint32(token % 32) & 1)

    def _next(self) -> None:
        started = time.thread_time()
        data = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)
        spent = time.thread_time() - started
        self._usage.seconds += spent
        if self._matcher.is_error():
            raise StructuredOutputError(_failed(self._matcher))
        self._debt = max(0.0, self._debt + spent - TOKEN_SECONDS)
        if self._debt > DEBT_SECONDS:
            raise StructuredOutputError("structured output stopped: its grammar is too ambiguous to follow in time")
        mask = np.zeros(len(self._ends), np.uint32)
        mask[: len(data)] = data[: len(mask)]
        if self._matcher.is_accepting():
            mask |= self._ends
        else:
            mask &= ~self._ends
        if self._only is not None:
            mask &= self._only
        if not mask.any():
            raise StructuredOutputError("structured output stopped: none of the tokens allowed can continue it")
        mask.flags.writeable = False
        self._mask = mask


def _failed(matcher: Any) -> str:
    return f"structured output stopped: {short(matcher.get_error())}"


def short(message: str) -> str:
    """A library's message on one line."""
    return " ".join(message.replace("<non-verbose/>", "").split())[:300]
