"""Our tokenizer as llguidance wants to see one: bytes by id, and a way from text to ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.text.tokenizer import Tokenizer

AHEAD = 512
TAIL = 8
ANCHOR = "\n"


class Vocabulary:
    """Control tokens are marked, so that they match no text; ids without a token are never allowed.

    ``ends``: ids that may end an answer, at least one, in order. Attribute names are those of llguidance.
    """

    def __init__(self, tokenizer: Tokenizer, ends: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        size = max(tokenizer.vocab_size, ends[0] + 1)
        self.tokens = [tokenizer.token_bytes(i) for i in range(size)]
        self.special_token_ids = sorted(i for i in {*tokenizer.special_ids, *ends} if i < size)
        self.eos_token_id = ends[0]
        self.bos_token_id = tokenizer.bos_id
        for i in self.special_token_ids:
            self.tokens[i] = self.tokens[i] or f"<[{i}]>".encode()

    def __call__(self, data: bytes | str) -> list[int]:
        """Ids that spell ``data``: the tokenizer's own if they do, else the longest tokens from the left.

        Of long texts only the beginning: the rest is asked for again when the answer has come nearer.
        llguidance lets the model take these where its grammar leaves but one text, so that words are cut as the model
        knows them. Normalisation (NFKC, collapsed spaces) would make them spell something else.
        """
        raw = data if isinstance(data, bytes) else data.encode("utf-8", "replace")
        if len(raw) <= 2 * AHEAD:
            return self._spell(raw)
        start = raw[:AHEAD].decode("utf-8", "ignore").encode()
        return self._spell(start)[:-TAIL] or self._spell(raw)  # the last ones may be cut otherwise in the whole

    def _spell(self, raw: bytes) -> list[int]:
        """The tokenizer's own ids, without a dummy prefix: behind a line break, which is taken off again."""
        text = raw.decode("utf-8", "replace")
        for before in ("", ANCHOR):
            ids = self._tokenizer.encode(before + text, add_special_tokens=False, parse_special=False)
            said, start = b"", 0
            while before and start < len(ids) and not said.endswith(ANCHOR.encode()):
                said += self.tokens[ids[start]]
                start += 1
            if b"".join(self.tokens[i] for i in ids[start:]) == raw:
                return ids[start:]
        return self._greedy(raw)

    def _greedy(self, raw: bytes) -> list[int]:
        ids: list[int] = []
        at = 0
        while at < len(raw):
            for end in range(min(len(raw), at + self._longest), at, -1):
                if raw[at:end] in self._by_bytes:
                    ids.append(self._by_bytes[raw[at:end]])
                    at = end
                    break
            else:
                return ids  # no token begins with this byte: the grammar will find no way on either
        return ids

    @cached_property
    def _by_bytes(self) -> dict[bytes, int]:
        special = set(self.special_token_ids)
        return {token: i for i, token in reversed(list(enumerate(self.tokens))) if token and i not in special}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._by_bytes))
