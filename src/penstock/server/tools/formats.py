"""The formats in which families write calls. Every parser is linear in the text, whatever the text is."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from penstock.server.tools.arguments import python_arguments
from penstock.server.tools.pieces import Marked, Parser, Piece, Text, ToolCall, as_call, as_calls, read_json

OPENING = ('{"name"', '{"type"', '{"function"', '{"parameters"', '{"arguments"')
PYTHON_TAG = "<|python_tag|>"
_BEGUN = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"arguments"\s*:\s*')


def hermes(names: Collection[str]) -> Parser:
    """Hermes, Qwen: ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``, any number of them."""
    return _Trimmed(Marked("<tool_call>", "</tool_call>", lambda part: _list(as_calls(read_json(part)))))


def mistral(names: Collection[str]) -> Parser:
    """Mistral: ``[TOOL_CALLS][{…}, …]``, or ``[TOOL_CALLS]name[ARGS]{…}`` again and again."""

    def inside(part: str) -> list[Piece] | None:
        value = read_json(part)
        if value is not None:
            return _list(as_calls(value))
        calls: list[Piece] = []
        for each in part.split("[TOOL_CALLS]"):
            name, mark, rest = each.partition("[ARGS]")
            if not mark:
                name, mark, rest = each.partition("{")
                rest = mark + rest
            call = as_call({"name": name.strip(), "arguments": read_json(rest)})
            if call is None or read_json(rest) is None:
                return None
            calls.append(call)
        return calls

    return Marked("[TOOL_CALLS]", "", inside)


class llama3:  # noqa: N801
    """Llama 3: the whole answer is ``{"name": …, "parameters": {…}}``, several with ``;``, maybe after a tag."""

    def __init__(self, names: Collection[str]) -> None:
        self._held: list[str] = []
        self._start = ""
        self._plain = False
        self._sure = False

    def feed(self, text: str) -> list[Piece]:
        if self._plain:
            return [Text(text)] if text else []
        self._held.append(text)
        if self._sure:
            return []
        self._start += text
        shown = "".join(self._start.split())
        marks = (*OPENING, PYTHON_TAG)
        if any(shown.startswith(mark) for mark in marks):
            self._sure = True
        elif not any(mark.startswith(shown) for mark in marks):
            self._plain = True
            return self._give_up()
        return []

    def finish(self) -> list[Piece]:
        whole = "".join(self._held)
        body = whole.strip().removeprefix(PYTHON_TAG)
        parts = body.split(";") if read_json(body) is None else [body]
        calls = [as_calls(read_json(part)) for part in parts if part.strip()]
        if not calls or any(call is None for call in calls):
            return self._give_up()
        self._held = []
        return [call for group in calls for call in group or ()]

    def _give_up(self) -> list[Piece]:
        whole, self._held = "".join(self._held), []
        return [Text(whole)] if whole else []


class glm:  # noqa: N801
    """ChatGLM 3 and GLM 4: a tool's name on the first line, then JSON, or ``tool_call(key=value)`` in a code block."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._first = ""
        self._held: list[str] = []
        self._state = "start"

    def feed(self, text: str) -> list[Piece]:
        if self._state == "plain":
            return [Text(text)] if text else []
        if self._state == "call":
            self._held.append(text)
            return []
        self._first += text
        line, end, rest = self._first.lstrip().partition("\n")
        if end and line.strip() in self._names:
            self._state, self._first, self._held = "call", line.strip(), [rest]
            return []
        if not end and any(name.startswith(line.strip()) for name in self._names):
            return []
        self._state = "plain"
        return [Text(self._first)] if self._first else []

    def finish(self) -> list[Piece]:
        if self._state == "plain":
            return []
        body = "".join(self._held)
        if self._state == "start":
            return [Text(self._first)] if self._first else []
        value = read_json(body)
        if isinstance(value, dict):
            return _list(as_calls({"name": self._first, "arguments": value})) or []
        arguments = python_arguments(body)
        if arguments is not None:
            return _list(as_calls({"name": self._first, "arguments": arguments})) or []
        return [Text(f"{self._first}\n{body}")]


class forced:  # noqa: N801
    """An answer that was made to be a JSON list of calls, whatever the family's own format: each is given when it is
    closed. One that the answer's end cuts short keeps the arguments that there are, which are no whole JSON then."""

    def __init__(self, names: Collection[str]) -> None:
        self._held: list[str] = []
        self._depth = 0
        self._quoted = self._escaped = False
        self._found = False

    def feed(self, text: str) -> list[Piece]:
        found: list[Piece] = []
        begin = 0
        for i, char in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped, self._quoted = char == "\\", char != '"'
            elif char == '"':
                self._quoted = True
            elif char in "[{":
                self._depth += 1
                if self._depth == 2:
                    begin, self._held = i, []
            elif char in "]}":
                self._depth -= 1
                if self._depth == 1:
                    found += self._closed("".join(self._held) + text[begin : i + 1])
                    begin = i + 1
        self._held.append(text[begin:])
        return found

    def finish(self) -> list[Piece]:
        rest, self._held = "".join(self._held), []
        if begun := _BEGUN.match(rest):
            return [ToolCall(begun[1], rest[begun.end() :])]
        if self._found or not rest:
            return []
        return _list(as_calls(read_json(rest))) or [Text(rest)]

    def _closed(self, text: str) -> list[Piece]:
        self._held = []
        found = _list(as_calls(read_json(text)))
        self._found = self._found or bool(found)
        return found or [Text(text)]


class _Trimmed:
    """Drops the blank space around calls: text before the first keeps its beginning, what is blank is nobody's."""

    def __init__(self, parser: Parser) -> None:
        self._parser = parser
        self._blank = ""

    def feed(self, text: str) -> list[Piece]:
        return self._trim(self._parser.feed(text))

    def finish(self) -> list[Piece]:
        pieces = self._trim(self._parser.finish())
        rest, self._blank = self._blank, ""
        return [*pieces, Text(rest)] if rest and not pieces else pieces

    def _trim(self, pieces: list[Piece]) -> list[Piece]:
        found: list[Piece] = []
        for piece in pieces:
            if not isinstance(piece, Text):
                self._blank = ""
                found.append(piece)
                continue
            text = self._blank + piece.text
            kept = text.rstrip()
            self._blank = text[len(kept) :]
            if kept:
                found.append(Text(kept))
        return found


def _list(calls: list[ToolCall] | None) -> list[Piece] | None:
    return None if calls is None else list(calls)


FORMATS: dict[str, Callable[[Collection[str]], Parser]] = {
    "hermes": hermes,
    "llama3_json": llama3,
    "mistral": mistral,
    "glm": glm,
    "forced": forced,
}
SHOWS_CONTROL = frozenset({"llama3_json", "mistral"})
"""Formats whose marks are control tokens, which a text leaves out unless told otherwise."""


def detect(template: str, family: str) -> str | None:
    """The format that a chat template (or a family) asks for; ``None`` if it knows no tools."""
    if "tools" not in template and not family.startswith(("chatglm", "glm")):
        return None
    if "<tool_call>" in template:
        return "hermes"
    if "[TOOL_CALLS]" in template or "[AVAILABLE_TOOLS]" in template:
        return "mistral"
    if family.startswith(("chatglm", "glm")):
        return "glm"
    if "<|python_tag|>" in template or '"parameters"' in template:
        return "llama3_json"
    return None
