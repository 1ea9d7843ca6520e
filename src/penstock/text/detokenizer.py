"""Ids to text, token by token: never half a character, and the same text as decoding all ids at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

from penstock.text.bytelevel import decode_utf8


class TokenBytes(Protocol):
    """The part of a tokenizer that decoding needs; see :class:`penstock.text.tokenizer.Tokenizer`."""

    @property
    def special_ids(self) -> Collection[int]: ...
    @property
    def lead(self) -> int: ...
    @property
    def replace_each(self) -> bool: ...
    def token_bytes(self, token_id: int) -> bytes: ...


class Detokenizer:
    """Incremental decoding of one sequence, O(1) per token.

    Each token contributes bytes; what forms whole characters is given out, an incomplete character waits. The
    concatenation of all results equals ``tokenizer.decode(all ids)``.

    ``continued``: the ids continue a text, so a leading space belongs to it; otherwise the one which SentencePiece
    puts before a text is dropped. ``spaces_between_special_tokens`` is accepted for the sake of callers who know it
    from elsewhere: no supported vocabulary needs a space there, and none is put in.
    """

    def __init__(
        self,
        tokenizer: TokenBytes,
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
        *,
        continued: bool = False,
    ) -> None:
        self._bytes = tokenizer.token_bytes
        self._skip: Collection[int] = tokenizer.special_ids if skip_special_tokens else ()
        self._replace_each = tokenizer.replace_each
        self._lead = 0 if continued else tokenizer.lead
        self._rest = b""

    def push(self, ids: Iterable[int]) -> str:
        """The text that became final with ``ids``."""
        data = self._rest + b"".join([self._bytes(token_id) for token_id in ids if token_id not in self._skip])
        text, self._rest = decode_utf8(data, final=False, replace_each=self._replace_each)
        return self._strip(text)

    def finish(self) -> str:
        """What is left at the end: U+FFFD for an incomplete character, else nothing."""
        text, self._rest = decode_utf8(self._rest, final=True, replace_each=self._replace_each)
        return self._strip(text)

    def _strip(self, text: str) -> str:
        while self._lead and text:
            if not text.startswith(" "):
                self._lead = 0
                break
            text = text[1:]
            self._lead -= 1
        return text
