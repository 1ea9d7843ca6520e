"""``tool_call(city='Paris', days=3)`` to a dictionary, without running anything."""

from __future__ import annotations

from typing import Any

_WORDS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"'}
MAX_ARGUMENTS = 256


def python_arguments(text: str) -> dict[str, Any] | None:
    """The keyword arguments of the first ``tool_call(…)``: strings, numbers, truths. ``None`` where it is odd."""
    start = text.find("tool_call(")
    if start < 0:
        return None
    at = start + len("tool_call(")
    found: dict[str, Any] = {}
    while len(found) < MAX_ARGUMENTS:
        at = _skip(text, at, " \t\r\n,")
        if text[at : at + 1] == ")":
            return found
        end = at
        while end < len(text) and (text[end].isalnum() or text[end] == "_"):
            end += 1
        name = text[at:end]
        end = _skip(text, end, " ")
        if not name or text[end : end + 1] != "=":
            return None
        read = _value(text, _skip(text, end + 1, " "))
        if read is None:
            return None
        found[name], at = read
    return None


def _skip(text: str, at: int, what: str) -> int:
    while at < len(text) and text[at] in what:
        at += 1
    return at


def _value(text: str, at: int) -> tuple[Any, int] | None:
    quote = text[at : at + 1]
    if quote and quote in "'\"":
        return _string(text, at + 1, quote)
    end = at
    while end < len(text) and text[end] not in ",) \n":
        end += 1
    word = text[at:end]
    if word in _WORDS:
        return _WORDS[word], end
    if len(word) > 40:
        return None
    for kind in (int, float):
        try:
            return kind(word), end
        except ValueError:
            continue
    return None


def _string(text: str, at: int, quote: str) -> tuple[str, int] | None:
    parts: list[str] = []
    while at < len(text):
        char = text[at]
        if char == quote:
            return "".join(parts), at + 1
        if char == "\\" and at + 1 < len(text):
            parts.append(_ESCAPES.get(text[at + 1], "\\" + text[at + 1]))
            at += 2
            continue
        parts.append(char)
        at += 1
    return None
