"""Rank files of the tiktoken library (lines of base64 and rank): Qwen-1, Llama-3, ChatGLM-4, Mistral's tekken."""

from __future__ import annotations

import binascii
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from penstock.errors import CheckpointError
from penstock.text.backends.base import SpecialSplitter, encode_split
from penstock.text.facts import GPT2_PATTERN, TokenizerFacts
from penstock.text.files import read_bytes
from penstock.text.merging import merge
from penstock.text.pretokenizing import PatternSplitter

BYTES = [bytes([value]) for value in range(256)]
# Words that texts are made of repeat. Longer ones rarely do, and would fill the memory.
CACHED_WORDS = 1 << 16
CACHED_LENGTH = 48


class TiktokenBackend:
    """Byte-level BPE by ranks, with control tokens numbered after them."""

    def __init__(
        self, ranks: dict[bytes, int], *, pattern: str, normalization: str | None, added: Mapping[str, int],
        specials: Mapping[str, int],
    ) -> None:  # fmt: skip
        self._ranks = ranks
        self._bytes = {rank: token for token, rank in ranks.items()}
        self._splitter = PatternSplitter(pattern)
        self._cached = lru_cache(CACHED_WORDS)(self._word)
        self._normalization = normalization
        everything = {**added, **specials}
        self._texts = {token_id: text for text, token_id in everything.items()}
        self._ids = everything
        self.specials: Mapping[str, int] = dict(specials)
        self._all = SpecialSplitter(everything)
        self._ordinary = SpecialSplitter({word: i for word, i in added.items() if word not in specials})
        self.size = max([*self._bytes, *self._texts]) + 1
        self.lead = 0
        self.replace_each = False
        self.prefix: tuple[int, ...] = ()
        self.suffix: tuple[int, ...] = ()

    def encode(self, text: str, *, parse_special: bool, first: bool = True) -> list[int]:
        if self._normalization == "NFC":
            text = unicodedata.normalize("NFC", text)
        return encode_split(text, self._all if parse_special else self._ordinary, self._plain, first)

    def _plain(self, text: str, first: bool) -> list[int]:
        ids: list[int] = []
        for word in self._splitter.split(text):
            ids.extend(self._cached(word) if len(word) <= CACHED_LENGTH else self._word(word))
        return ids

    def _word(self, word: str) -> tuple[int, ...]:
        """Ids of one piece that the pattern cut out; a piece which is a token itself is that token."""
        data = word.encode()
        if (rank := self._ranks.get(data)) is not None:
            return (rank,)
        return tuple([self._ranks[part] for part in merge([BYTES[value] for value in data], self._ranks)])

    def token_bytes(self, token_id: int) -> bytes:
        if (text := self._texts.get(token_id)) is not None:
            return text.encode("utf-8", "replace")
        return self._bytes.get(token_id, b"")

    def token(self, token_id: int) -> str | None:
        if (text := self._texts.get(token_id)) is not None:
            return text
        data = self._bytes.get(token_id)
        return None if data is None else data.decode("utf-8", "replace")

    def token_to_id(self, token: str) -> int | None:
        if (token_id := self._ids.get(token)) is not None:
            return token_id
        return self._ranks.get(token.encode("utf-8", "replace"))


def looks_like_ranks(data: bytes) -> bool:
    """Whether ``data`` begins with a line of base64, a space and a number."""
    first = data[:4096].split(b"\n", 1)[0].split()
    if len(first) != 2 or not first[1].isdigit():
        return False
    try:
        binascii.a2b_base64(first[0], strict_mode=True)
    except ValueError:
        return False
    return True


def parse_ranks(data: bytes, path: Path) -> dict[bytes, int]:
    """The table of token bytes to rank; every fault names its line."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[binascii.a2b_base64(token)] = int(rank)
        except ValueError as error:
            raise CheckpointError(f"{path}: line {number} is not 'base64 rank' (the file is damaged)") from error
    check_ranks(ranks, path)
    return ranks


def check_ranks(ranks: Mapping[bytes, int], path: Path) -> None:
    """CheckpointError unless ranks are distinct and every byte has one."""
    if len(set(ranks.values())) != len(ranks) or not all(0 <= rank < 1 << 24 for rank in ranks.values()):
        raise CheckpointError(f"{path}: ranks repeat or lie outside 0 to 2^24")
    if absent := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise CheckpointError(f"{path}: {len(absent)} of the 256 single bytes have no rank (the file is damaged)")


def load(path: Path, *, added: Mapping[str, int], specials: frozenset[str], facts: TokenizerFacts) -> TiktokenBackend:
    """The ranks in ``path``. Control tokens are those of ``facts``, unless ``added`` gives the same id another text."""
    ranks = parse_ranks(read_bytes(path), path)
    base = max(ranks.values()) + 1
    own = {word: base + i for i, word in enumerate(facts.specials)}
    taken = set(added.values())
    control = {word: token_id for word, token_id in own.items() if token_id not in taken and word not in added}
    control |= {word: token_id for word, token_id in added.items() if word in specials or word in own}
    return TiktokenBackend(
        ranks, pattern=facts.pattern or GPT2_PATTERN, normalization=facts.normalization, added=added, specials=control
    )  # fmt: skip
