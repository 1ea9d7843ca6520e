"""What an answer's text turns out to be, piece by piece, and the scanning that all formats share."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from penstock.types import TokenLogprobs

Scored = tuple[int, TokenLogprobs]
"""A token and its log probabilities."""


@dataclass(frozen=True, slots=True)
class Text:
    """``scores``: its tokens, where they were asked for."""

    text: str
    scores: tuple[Scored, ...] = ()


@dataclass(frozen=True, slots=True)
class Reasoning:
    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """``arguments`` is JSON text."""

    name: str
    arguments: str
    id: str = field(default_factory=lambda: f"call_{secrets.token_hex(12)}")


Piece = Text | Reasoning | ToolCall


class Parser(Protocol):
    """Fed text as it comes. What could still become a mark or a call is held back until it is decided."""

    def feed(self, text: str) -> list[Piece]: ...

    def finish(self) -> list[Piece]: ...


def held_back(text: str, mark: str) -> int:
    """How many characters at the end of ``text`` could be the beginning of ``mark``."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0


class Marked:
    """Text with parts between two marks: ``inside`` turns such a part (without marks) into pieces.

    An empty ``close``, or an answer that ends inside, closes with the text. ``None`` from ``inside`` makes the part
    plain text again, marks included.
    """

    def __init__(self, opening: str, closing: str, inside: Callable[[str], list[Piece] | None]) -> None:
        self._open, self._close, self._inside_of = opening, closing, inside
        self._inside = False
        self._outer = ""
        self._parts: list[str] = []
        self._tail = ""

    def feed(self, text: str) -> list[Piece]:
        found: list[Piece] = []
        while text:
            text = self._feed_inner(text, found) if self._inside else self._feed_outer(text, found)
        return found

    def finish(self) -> list[Piece]:
        if self._inside:
            return self._end_part("".join(self._parts) + self._tail, closed=False)
        rest, self._outer = self._outer, ""
        return [Text(rest)] if rest else []

    def _feed_outer(self, text: str, found: list[Piece]) -> str:
        whole = self._outer + text
        before, mark, after = whole.partition(self._open)
        if mark:
            self._outer, self._inside = "", True
            self._parts, self._tail = [], ""
            if before:
                found.append(Text(before))
            return after
        hold = held_back(whole, self._open)
        self._outer = whole[len(whole) - hold :]
        if shown := whole[: len(whole) - hold]:
            found.append(Text(shown))
        return ""

    def _feed_inner(self, text: str, found: list[Piece]) -> str:
        whole = self._tail + text
        if not self._close:
            self._parts.append(text)
            return ""
        before, mark, after = whole.partition(self._close)
        if mark:
            found += self._end_part("".join(self._parts) + before, closed=True)
            self._inside = False
            return after
        keep = min(len(whole), len(self._close) - 1)
        self._parts.append(whole[: len(whole) - keep])
        self._tail = whole[len(whole) - keep :]
        return ""

    def _end_part(self, part: str, closed: bool) -> list[Piece]:
        pieces = self._inside_of(part)
        if pieces is None:
            return [Text(self._open + part + (self._close if closed else ""))]
        return pieces


def read_json(text: str) -> Any:
    """The JSON value in ``text``, or ``None`` for what is none."""
    try:
        return msgspec.json.decode(text.strip())
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def as_call(value: Any) -> ToolCall | None:
    """``{"name": …, "arguments" | "parameters": …}`` as a call, or ``None``."""
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("function"), dict):
        value = value["function"]
    name = value.get("name")
    if not isinstance(name, str) or not name:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if not isinstance(arguments, str):
        arguments = msgspec.json.encode({} if arguments is None else arguments).decode()
    return ToolCall(name, arguments)


def as_calls(value: Any) -> list[ToolCall] | None:
    """One call or a list of calls; ``None`` if any is not one."""
    found = [as_call(v) for v in (value if isinstance(value, list) else [value])]
    calls = [call for call in found if call is not None]
    return calls if calls and len(calls) == len(found) else None
