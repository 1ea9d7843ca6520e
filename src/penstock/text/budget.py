"""What one rendering of a template may cost: steps, characters and time, counted before they are spent."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LARGEST_INT_ARGUMENT = 100_000
LARGEST_INT_BITS = 4096
LARGEST_CONTAINER = 1_000_000
DEPTH = 64
# Conversions of str.format and of %, width and precision in groups. Each is matched in linear time.
BRACES = re.compile(r"\{([^{}]*)([{}]?)")
PERCENT = re.compile(r"%(?:\([^()]{0,200}\))?[#0\- +]*(\*|\d+)?(?:\.(\*|\d+))?")


@dataclass(frozen=True)
class Limits:
    """Bounds of one rendering. ``chars`` grows by ``chars_per_input`` for each character of the messages."""

    steps: int = 2_000_000
    chars: int = 64 << 20
    chars_per_input: int = 256
    seconds: float = 5.0


class BudgetError(Exception):
    """The rendering was stopped; the message says which bound it met."""


class Budget:
    """The rest of what a rendering may cost. Each method raises BudgetError when it is spent."""

    def __init__(self, limits: Limits, input_chars: int = 0) -> None:
        self._limits = limits
        self._steps = limits.steps
        self._chars = limits.chars + limits.chars_per_input * input_chars
        self._deadline = time.monotonic() + limits.seconds

    def tick(self, count: int = 1) -> None:
        """Count a pass through a block, a call or a filter, and look at the clock."""
        self._steps -= count
        if self._steps < 0:
            raise BudgetError(f"stopped after {self._limits.steps} steps (an endless or very large loop?)")
        self.check_clock()

    def check_clock(self) -> None:
        """Stop when the time is over."""
        if time.monotonic() > self._deadline:
            raise BudgetError(f"stopped after {self._limits.seconds:g} seconds")

    def charge(self, chars: int) -> None:
        """Count ``chars`` characters or items that are about to be made."""
        self._chars -= chars
        if self._chars < 0:
            raise BudgetError(f"stopped: it makes more than {self._limits.chars >> 20} million characters")

    def charge_sized(self, size: int, like: Any) -> None:
        """Count ``size`` characters, or items when ``like`` is a container."""
        if not isinstance(like, (str, bytes)):
            if size > LARGEST_CONTAINER:
                raise BudgetError(f"stopped: a list of more than {LARGEST_CONTAINER} items")
            size *= 8
        self.charge(size)

    def weigh(self, *values: Any) -> int:
        """Characters and items of ``values`` when written out, shared parts counted each time; charged as steps."""
        total = visited = turns = 0
        stack = [(value, 0) for value in values]
        while stack:
            value, depth = stack.pop()
            visited += 1
            turns += 1
            if turns % 4096 == 0:
                self.check_clock()
            if isinstance(value, (str, bytes)):
                total += len(value) * (4 if depth else 1)  # inside a container it may be written with escapes
                continue
            total += 8
            if isinstance(value, Mapping):
                children: Sequence[Any] = [*value.keys(), *value.values()]
            elif isinstance(value, (list, tuple, set, frozenset)):
                children = list(value)
            else:
                continue
            if depth > DEPTH:
                raise BudgetError(f"stopped: values nested deeper than {DEPTH}")
            visited += len(children)
            if visited > LARGEST_CONTAINER or total > self._chars:
                raise BudgetError("stopped: a value is too large to be written out")
            stack.extend((child, depth + 1) for child in children)
        self.tick(visited // 16)
        return total


def check_int(*values: Any) -> None:
    """Refuse large numbers where they are widths, counts or digits."""
    for value in values:
        if isinstance(value, int) and abs(value) > LARGEST_INT_ARGUMENT:
            raise BudgetError(f"stopped: the number {str(value)[:20]} is too large for a width or a count")


def percent_size(template: str, size: int) -> int:
    """A bound for ``template % values``, where ``values`` written out have ``size`` characters."""
    total = len(template)
    for match in PERCENT.finditer(template):
        total += size + sum(_width(group) for group in match.groups() if group)
    return total


def braces_size(template: str, size: int) -> int:
    """As :func:`percent_size`, for ``template.format(values)``."""
    total = len(template)
    for match in BRACES.finditer(template):
        inside, end = match.groups()
        if end == "{" and ":" in inside:
            raise BudgetError("stopped: a format whose width is a value")
        total += size + sum(_width(digits) for digits in re.findall(r"\d+", inside))
    return total


def _width(digits: str) -> int:
    if digits == "*" or len(digits) > 5:
        raise BudgetError("stopped: a format has too large a width")
    return int(digits)


def replace_size(text: str, old: str, new: str) -> int:
    """A bound for ``text.replace(old, new)``."""
    return len(text) + (len(text) + 1) // max(1, len(old)) * len(new)
