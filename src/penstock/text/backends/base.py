"""What a tokenizer algorithm must offer, and the splitter of control tokens that the plain ones share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol


class Backend(Protocol):
    """One vocabulary with its algorithm.

    ``size``: one more than the highest id. ``specials``: control tokens by text. ``lead``: leading spaces of a whole
    text which decoding drops (SentencePiece's dummy prefix). ``replace_each``: how invalid UTF-8 is shown, see
    :func:`penstock.text.bytelevel.decode_utf8`. ``prefix``, ``suffix``: what the files put around an encoded text.
    """

    size: int
    specials: Mapping[str, int]
    lead: int
    replace_each: bool
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]

    def encode(self, text: str, *, parse_special: bool, first: bool = True) -> list[int]:
        """Ids of ``text``, nothing added around. ``first``: whether the text stands at the start of the whole."""

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that the token adds to a text; empty for an id without a token."""

    def token(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it (``▁the``, ``Ġthe``), or ``None``."""

    def token_to_id(self, token: str) -> int | None:
        """The id of a vocabulary entry, control tokens included, or ``None``."""


class ShiftedBackend:
    """A backend behind ``count`` ids that stand for no text (ChatGLM-6B's image tokens)."""

    def __init__(self, inner: Backend, count: int) -> None:
        self._inner = inner
        self._count = count
        self.size = inner.size + count
        self.specials: Mapping[str, int] = {word: token_id + count for word, token_id in inner.specials.items()}
        self.lead = inner.lead
        self.replace_each = inner.replace_each
        self.prefix = tuple(token_id + count for token_id in inner.prefix)
        self.suffix = tuple(token_id + count for token_id in inner.suffix)

    def encode(self, text: str, *, parse_special: bool, first: bool = True) -> list[int]:
        return [i + self._count for i in self._inner.encode(text, parse_special=parse_special, first=first)]

    def token_bytes(self, token_id: int) -> bytes:
        return self._inner.token_bytes(token_id - self._count) if token_id >= self._count else b""

    def token(self, token_id: int) -> str | None:
        if 0 <= token_id < self._count:
            return f"<image_{token_id}>"
        return self._inner.token(token_id - self._count)

    def token_to_id(self, token: str) -> int | None:
        found = self._inner.token_to_id(token)
        return None if found is None else found + self._count


class SpecialSplitter:
    """Cuts a text at control tokens: longest first at each position, as tries in other tokenizers do."""

    def __init__(self, specials: Mapping[str, int]) -> None:
        self._ids = dict(specials)
        words = sorted((word for word in specials if word), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, words))) if words else None

    def split(self, text: str, breaks: frozenset[int] = frozenset()) -> Iterator[tuple[str, int | None]]:
        """Yield ``(piece, None)`` for ordinary text, ``(token, id)`` for a control token.

        No control token is read across a position in ``breaks`` (0 < position < len(text)).
        """
        if self._pattern is None:
            if text:
                yield text, None
            return
        done = at = 0
        while match := self._pattern.search(text, at):
            start, end = match.span()
            if breaks and any(position in breaks for position in range(start + 1, end)):
                at = start + 1
                continue
            if start > done:
                yield text[done:start], None
            yield match.group(), self._ids[match.group()]
            done = at = end
        if done < len(text):
            yield text[done:], None


def encode_split(
    text: str, splitter: SpecialSplitter, ordinary: Callable[[str, bool], list[int]], first: bool = True
) -> list[int]:
    """Encode ``text`` with its control tokens read; ``ordinary(piece, first)`` encodes what lies between them."""
    ids: list[int] = []
    for piece, token_id in splitter.split(text):
        if token_id is None:
            ids.extend(ordinary(piece, first))
        else:
            ids.append(token_id)
        first = False
    return ids
