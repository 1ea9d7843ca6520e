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
        """Cached blocks of the longest known prefix of ``seq``, at most all but its last token. Takes no reference.

        Whole blocks of a :class:`Prefix` come before them and are not among them.
        """
        if not self.enabled or not seq.request.cacheable:
            return []
        found: list[int] = []
        first = seq.lead // self.block_size
        for i in range(first, (seq.lead + len(seq.tokens) - 1) // self.block_size):
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
        lead, size = seq.lead, self.block_size
        first, end = (lead + before) // size, (lead + seq.computed) // size
        if first == end or not self.enabled or not seq.request.cacheable:
            return
        for i in range(first, end):
            self.pool.name(seq.blocks[i], self._name(seq, i))

    def _name(self, seq: Sequence, index: int) -> bytes:
        names, size, lead = seq.block_names, self.block_size, seq.lead
        first = lead // size
        while first + len(names) <= index:
            i = first + len(names)
            previous = names[-1] if names else self._root(seq)
            names.append(self._digest(previous, seq.tokens[max(0, i * size - lead) : (i + 1) * size - lead]))
        return names[index - first]

    def _root(self, seq: Sequence) -> bytes:
        request = seq.request
        prefix = request.prefix.serial if request.prefix is not None else 0
        adapter = request.adapter_serial or request.adapter
        facts = f"{request.cache_salt!r}|{adapter}|{seq.length_key}|{prefix}"
        return blake2b(facts.encode(), key=self._key, digest_size=16).digest()

    def _digest(self, previous: bytes, tokens: Seq[int]) -> bytes:
        return blake2b(previous + array("i", tokens).tobytes(), key=self._key, digest_size=16).digest()
