"""What a regular expression may cost, told before anything compiles it."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_LENGTH = 16 << 10
MAX_COUNT = 10_000

_COUNT = re.compile(r"\{(\d{1,12})(,?)(\d{0,12})\}")
_OPENING = re.compile(r"\?(?:P?<\w+>|[a-zA-Z-]*:)?")
_ESCAPE = re.compile(r"\\(?:[pP]\{[^}]*\}|x\{[^}]*\}|u\{[^}]*\}|.)", re.DOTALL)


@dataclass(slots=True)
class _Group:
    """An open group. ``endless``: its one item, the last, repeats without end."""

    items: int = 0
    endless: bool = False
    branches: bool = False

    def add(self, endless: bool = False) -> None:
        self.items += 1
        self.endless = endless

    @property
    def only_endless(self) -> bool:
        return self.items == 1 and self.endless and not self.branches


def problem(pattern: str) -> str | None:
    """Why ``pattern`` is refused, or None.

    Refused are long patterns, counts above ``MAX_COUNT``, and an endless repetition of nothing but an endless
    repetition, ``(a+)+``: it says no more than ``a+``. Faults of syntax are left to the compiler.
    """
    if len(pattern) > MAX_LENGTH:
        return f"a regular expression of {len(pattern)} characters, more than {MAX_LENGTH}"
    groups = [_Group()]
    at = 0
    while at < len(pattern):
        char, group = pattern[at], groups[-1]
        at += 1
        if char == "\\":
            match = _ESCAPE.match(pattern, at - 1)
            at = match.end() if match else at
            group.add()
        elif char == "[":
            at = _class_end(pattern, at)
            group.add()
        elif char == "(":
            match = _OPENING.match(pattern, at)
            at = match.end() if match else at
            groups.append(_Group())
        elif char == ")" and len(groups) > 1:
            inner = groups.pop()
            groups[-1].add(inner.only_endless)
        elif char == "|":
            group.branches = True
        elif char in "*+{":
            match = _COUNT.match(pattern, at - 1) if char == "{" else None
            if char == "{" and match is None:
                continue
            at = match.end() if match else at
            found = _repeat(group, match)
            if found:
                return found
        elif char != "?":
            group.add()
    return None


def _repeat(group: _Group, count: re.Match[str] | None) -> str | None:
    """Apply a repetition to the group's last item."""
    if count is not None and max(int(count[1]), int(count[3] or 0)) > MAX_COUNT:
        return f"the regular expression repeats {count.group()} times, more than {MAX_COUNT}"
    if count is None or (count[2] and not count[3]):
        if group.endless:
            return "the regular expression repeats an endless repetition endlessly, as (a+)+ does: write one of the two"
        group.endless = True
    return None


def _class_end(pattern: str, at: int) -> int:
    """Where the character class that was opened before ``at`` has ended; classes may lie in classes."""
    depth, first = 1, True
    while at < len(pattern) and depth:
        char = pattern[at]
        at += 2 if char == "\\" else 1
        if char == "[":
            depth += 1
        elif char == "]" and not first:
            depth -= 1
        first = first and char == "^"
    return at
