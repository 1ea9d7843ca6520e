"""How a model's answers are read: reasoning apart from text, calls apart from both. Decided per model and request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from penstock.chat import template
from penstock.errors import PenstockError, RequestError
from penstock.server.answers import Counter, Thoughts
from penstock.server.state import Served, State
from penstock.server.tools.check import Offer
from penstock.server.tools.formats import FORMATS, SHOWS_CONTROL, detect
from penstock.server.tools.pieces import Parser, Piece, Reasoning, Text, ToolCall, held_back
from penstock.types.params import MAX_TOKENS

if TYPE_CHECKING:
    from penstock.text.tokenizer import Tokenizer

THINK, THOUGHT = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Reading:
    """``format``: how calls are written, None to look for none. ``reasons``: the family marks its reasoning.

    ``thoughts``: whether this answer may reason before what is asked of its form. ``hidden``: reasoning is left out.
    """

    format: str | None = None
    names: tuple[str, ...] = ()
    reasons: bool = False
    starts_inside: bool = False
    parallel: bool = True
    thoughts: Thoughts | None = None
    hidden: bool = False

    def within(self, budget: int | None, param: str | None = None) -> Reading:
        """With so many tokens of thought at most. ``param``: raises ``RequestError`` where there are no thoughts."""
        if budget is None:
            return self
        if not 0 <= budget <= MAX_TOKENS:
            raise RequestError(f"{param or 'budget_tokens'} must be from 0 to {MAX_TOKENS}, got {budget}", param)
        if not self.reasons and param is not None:
            raise RequestError(f"{param}: this model's template marks no thoughts, leave it out", param)
        return self if self.thoughts is None else replace(self, thoughts=replace(self.thoughts, budget=budget))

    @property
    def plain(self) -> bool:
        return self.format is None and not self.reasons

    @property
    def shows_control(self) -> bool:
        """Whether control tokens must stay in the text for calls to be found."""
        return self.format in SHOWS_CONTROL

    def counter(self, tokenizer: Tokenizer | None) -> Callable[[], Counter] | None:
        """Counters of an answer's thoughts, where the family marks them."""
        if not self.reasons or tokenizer is None:
            return None
        token_bytes = tokenizer.token_bytes
        return lambda: _Count(token_bytes, self.starts_inside).feed

    def parser(self) -> Parser:
        calls = FORMATS[self.format](self.names) if self.format else None
        return _Both(calls, self)


def reading(state: State, served: Served, offer: Offer, prompt: str, *, parallel: bool = True) -> Reading:
    """For a request that makes ``offer``; ``prompt`` is its rendered text.

    Raises ``RequestError`` for tools where the model's template knows none.
    """
    source = _source(served)
    kind = None
    if offer.names:
        kind = _tool_format(state, source, served.llm.model.family.name)
        if kind is None:
            raise RequestError(
                "this model's chat template knows no tools: leave out tools, or start the server with "
                "--tool-call-parser and a template that shows them",
                "tools",
            )
    reasons = state.options.reasoning and THOUGHT in source
    inside = reasons and prompt.rstrip().endswith(THINK)
    over = not reasons or prompt.rstrip().endswith(THOUGHT)
    thoughts = None if over else Thoughts(inside)
    return Reading("forced" if offer.must else kind, offer.names, reasons, inside, parallel, thoughts)


def abilities(state: State, served: Served) -> list[str]:
    """What the model's template has a form for: ``tools``, ``thinking``."""
    source = _source(served)
    found = ["tools"] if _tool_format(state, source, served.llm.model.family.name) is not None else []
    return found + (["thinking"] if state.options.reasoning and THOUGHT in source else [])


def _source(served: Served) -> str:
    try:
        return template(served.llm.model).source
    except PenstockError:
        return ""


def _tool_format(state: State, source: str, family: str) -> str | None:
    wish = state.options.tool_call_parser
    return detect(source, family) if wish == "auto" else wish


class _Both:
    """Reasoning first, calls in what is left."""

    def __init__(self, calls: Parser | None, reading: Reading) -> None:
        self._calls = calls
        self._thoughts = _Thoughts(reading.starts_inside) if reading.reasons else None
        self._parallel, self._hidden = reading.parallel, reading.hidden
        self._made = 0

    def feed(self, text: str) -> list[Piece]:
        pieces: list[Piece] = [Text(text)] if self._thoughts is None else self._thoughts.feed(text)
        return self._through(pieces)

    def finish(self) -> list[Piece]:
        found = self._through([] if self._thoughts is None else self._thoughts.finish())
        if self._calls is not None:
            found += self._limited(self._calls.finish())
        return found

    def _through(self, pieces: list[Piece]) -> list[Piece]:
        found: list[Piece] = []
        for piece in pieces:
            if self._hidden and isinstance(piece, Reasoning):
                continue
            if self._calls is not None and isinstance(piece, Text):
                found += self._limited(self._calls.feed(piece.text))
            elif not isinstance(piece, Text) or piece.text:
                found.append(piece)
        return found

    def _limited(self, pieces: list[Piece]) -> list[Piece]:
        found = []
        for piece in pieces:
            if isinstance(piece, ToolCall):
                self._made += 1
                if self._made > 1 and not self._parallel:
                    continue
            found.append(piece)
        return found


class _Count:
    """Tokens up to the end of the thoughts at an answer's beginning, marks included."""

    def __init__(self, token_bytes: Callable[[int], bytes], inside: bool) -> None:
        self._bytes = token_bytes
        self._inside = inside
        self._over = False
        self._text = b""
        self._undecided = 0

    def feed(self, ids: Sequence[int]) -> int:
        if self._over:
            return 0
        count, self._undecided = self._undecided, 0
        for token in ids:
            self._text += self._bytes(token)
            count += 1
            if not self._inside:
                begun = self._text.lstrip()
                self._inside = begun.startswith(THINK.encode())
                self._over = not self._inside and not THINK.encode().startswith(begun)
            if self._inside:
                self._over = THOUGHT.encode() in self._text
                self._text = self._text[-len(THOUGHT) :]
            if self._over:
                break
        self._undecided = 0 if self._inside or self._over else count
        return count if self._inside else 0


class _Thoughts:
    """``<think>…</think>`` at the beginning of an answer, streamed; later ones are text."""

    def __init__(self, inside: bool) -> None:
        self._state = "open" if inside else "start"
        self._held = ""

    def feed(self, text: str) -> list[Piece]:
        if self._state == "trim":
            text = text.lstrip("\n")
            self._state = "after" if text else "trim"
        if self._state in ("after", "trim"):
            return [Text(text)] if text else []
        text = self._held + text
        self._held = ""
        if self._state == "start":
            begun = text.lstrip()
            if THINK.startswith(begun) and len(begun) < len(THINK):
                self._held = text
                return []
            if not begun.startswith(THINK):
                self._state = "after"
                return [Text(text)]
            self._state, text = "open", begun[len(THINK) :]
        if self._state == "open":
            text = text.lstrip("\n")
            self._state = "inside" if text else "open"
        return self._inside(text)

    def _inside(self, text: str) -> list[Piece]:
        thought, mark, rest = text.partition(THOUGHT)
        found: list[Piece] = []
        if mark:
            if thought.rstrip("\n"):
                found.append(Reasoning(thought.rstrip("\n")))
            self._state = "trim"
            return found + self.feed(rest)
        hold = held_back(text, THOUGHT)
        sure = text[: len(text) - hold]
        hold += len(sure) - len(sure.rstrip("\n"))
        self._held = text[len(text) - hold :]
        if shown := text[: len(text) - hold]:
            found.append(Reasoning(shown))
        return found

    def finish(self) -> list[Piece]:
        rest, self._held = self._held, ""
        if not rest:
            return []
        return [Reasoning(rest)] if self._state == "inside" else [Text(rest)]
