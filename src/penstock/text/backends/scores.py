"""SentencePiece's BPE from lists of pieces, scores and kinds, for files that hold no SentencePiece model (GGUF)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from penstock.text.backends.base import SpecialSplitter
from penstock.text.merging import merge

SPACE = "▁"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
BLANKS = re.compile(r"[ ▁]+")
WORD_BEGIN = re.compile(rf"(?<=[^{SPACE}])(?={SPACE})")
CACHED_WORDS = 1 << 16
CACHED_LENGTH = 32


class ScoreBackend:
    """A SentencePiece BPE vocabulary: neighbours are joined by score, and what has no piece becomes bytes.

    ``dummy_prefix``: a text begins with a space, and so does a text after a control token (``legacy``, see
    :class:`penstock.text.backends.spm.SpmBackend`). ``strip_after``: ids after which blanks are dropped.
    Source: sentencepiece, ``src/bpe_model.cc``; characters are not normalised, since the lists do not say how.
    """

    def __init__(
        self, pieces: Sequence[str], scores: Sequence[float], kinds: Sequence[int], *, dummy_prefix: bool,
        collapse: bool, control: frozenset[int], unk_id: int | None, strip_after: frozenset[int] = frozenset(),
        literal: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        self._pieces = pieces
        self._kinds = kinds
        self._ids: dict[str, int] = {}
        for token_id, piece in enumerate(pieces):
            self._ids.setdefault(piece, token_id)
        normal = [i for i, kind in enumerate(kinds) if kind == NORMAL and self._ids[pieces[i]] == i and pieces[i]]
        # The best score is joined first, and of equal ones the leftmost: exactly what equal ranks give.
        order = {score: rank for rank, score in enumerate(sorted({scores[i] for i in normal}, reverse=True))}
        self._ranks = {pieces[i]: order[scores[i]] for i in normal}
        self._byte_ids = {
            int(found.group(1), 16): i
            for i, kind in enumerate(kinds)
            if kind == BYTE and (found := BYTE_PIECE.fullmatch(pieces[i]))
        }
        self._byte_of = {token_id: byte for byte, token_id in self._byte_ids.items()}
        self._unk = unk_id
        # Where no piece goes on after a word with the next one, words can be merged one by one, and remembered.
        self._by_word = not any(WORD_BEGIN.search(piece) for piece in self._ranks)
        self._cached = lru_cache(CACHED_WORDS)(self._merge)
        self._collapse = collapse
        self._strip_after = strip_after
        user = {pieces[i].replace(SPACE, " "): i for i, k in enumerate(kinds) if k == USER_DEFINED and i not in control}
        self.specials: Mapping[str, int] = {pieces[i]: i for i in sorted(control, reverse=True) if pieces[i]}
        self._all = SpecialSplitter({**user, **{w: i for w, i in self.specials.items() if w not in literal}})
        self._ordinary = SpecialSplitter(user)
        self._prefix_again = "[INST]" not in self.specials
        self.size = len(pieces)
        self.lead = 1 if dummy_prefix else 0
        self.replace_each = True
        self.prefix: tuple[int, ...] = ()
        self.suffix: tuple[int, ...] = ()

    def encode(self, text: str, *, parse_special: bool, first: bool = True) -> list[int]:
        ids: list[int] = []
        first = first or self._prefix_again
        for piece, token_id in (self._all if parse_special else self._ordinary).split(text):
            if token_id is not None:
                ids.append(token_id)
            else:
                if ids and ids[-1] in self._strip_after:
                    piece = piece.lstrip()
                ids.extend(self._plain(piece, first))
            first = self._prefix_again and token_id is not None
        return ids

    def _plain(self, text: str, first: bool) -> list[int]:
        if self._collapse:
            text = BLANKS.sub(" ", text).strip(" ")
        if not text:
            return []
        if self.lead and first:
            text = " " + text
        text = text.replace(" ", SPACE)
        ids: list[int] = []
        for word in WORD_BEGIN.split(text) if self._by_word else (text,):
            ids.extend(self._cached(word) if len(word) <= CACHED_LENGTH else self._merge(word))
        if not self._byte_ids:  # a run of unknown characters is one unknown token
            return [i for at, i in enumerate(ids) if i != self._unk or at == 0 or ids[at - 1] != i]
        return ids

    def _merge(self, word: str) -> tuple[int, ...]:
        ids: list[int] = []
        for part in merge(list(word), self._ranks):
            if part in self._ranks:
                ids.append(self._ids[part])
            elif self._byte_ids:
                ids.extend(self._byte_ids[byte] for byte in part.encode())
            elif self._unk is not None:
                ids.append(self._unk)
        return tuple(ids)

    def token_bytes(self, token_id: int) -> bytes:
        if not 0 <= token_id < self.size:
            return b""
        if (byte := self._byte_of.get(token_id)) is not None:
            return bytes([byte])
        return self._pieces[token_id].replace(SPACE, " ").encode("utf-8", "replace")

    def token(self, token_id: int) -> str | None:
        return self._pieces[token_id] if 0 <= token_id < self.size else None

    def token_to_id(self, token: str) -> int | None:
        return self._ids.get(token)
