"""Names for full KV blocks: a keyed hash chain over token ids, so that equal prefixes find each other's blocks.

A block's name covers its tokens, all blocks before it, and everything else that changes its content: salt, adapter and
the rotary length class. The key is random per process, so nobody outside can aim for a collision.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence as Seq
from hashlib import blake2b

from penstock.engine.blocks import BlockPool
from penstock.engine.sequence import Sequence


class PrefixCache:
    """Looks up and names blocks of ``pool``. Hits and queries are counted in tokens."""

    def __init__(self, pool: BlockPool, block_size: int, enabled: bool = True) -> None:
        self.pool = pool
        self.block_size = block_size
        self.enabled = enabled
        self.queries = 0
        self.hits = 0
        self._key = os.urandom(32)

    def match(self, seq: Sequence) -> list[int]:
        """Cached blocks of the longest known prefix of ``seq``, at most all but its last token. Takes no reference."""
        if not self.enabled or not seq.request.cacheable:
            return []
        found: list[int] = []
        for i in range((len(seq.tokens) - 1) // self.block_size):
            block = self.pool.find(self._name(seq, i))
            if block is None:
                break
            found.append(block)
        return found

    def count(self, queried: int, hit: int) -> None:
        self.queries += queried
        self.hits += hit

    def register(self, seq: Sequence, before: int) -> None:
        """Name the blocks that became full when ``seq.computed`` grew from ``before``."""
        if not self.enabled or not seq.request.cacheable:
            return
        for i in range(before // self.block_size, seq.computed // self.block_size):
            self.pool.name(seq.blocks[i], self._name(seq, i))

    def _name(self, seq: Sequence, index: int) -> bytes:
        names, size = seq.block_names, self.block_size
        while len(names) <= index:
            i = len(names)
            previous = names[-1] if names else self._root(seq)
            names.append(self._digest(previous, seq.tokens[i * size : (i + 1) * size]))
        return names[index]

    def _root(self, seq: Sequence) -> bytes:
        request = seq.request
        facts = f"{request.cache_salt!r}|{request.adapter}|{request.length_key}".encode()
        return blake2b(facts, key=self._key, digest_size=16).digest()

    def _digest(self, previous: bytes, tokens: Seq[int]) -> bytes:
        return blake2b(previous + array("i", tokens).tobytes(), key=self._key, digest_size=16).digest()
