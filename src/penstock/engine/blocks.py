"""Block ids of the paged KV cache: who holds which, which are free, which are free but still worth something.

    never touched   touched and empty   free, but named by the prefix cache (LRU)   held (refs > 0)
    └───────────────┴───────────────────┴─── all three can be allocated ────────┘

Empty touched blocks go first, so that memory grows only when it must; then untouched ones; then the least recently used
cached block loses its name. Ids only: the memory is the executor's.
"""

from __future__ import annotations

from collections import OrderedDict


class BlockPool:
    """``total`` blocks with reference counts and an index of names (hashes) for the prefix cache."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._refs = [0] * total
        self._names: list[bytes | None] = [None] * total
        self._by_name: dict[bytes, int] = {}
        self._empty: list[int] = []
        self._untouched = 0
        self._cached: OrderedDict[int, None] = OrderedDict()

    @property
    def free(self) -> int:
        """Blocks that :meth:`allocate` could give, cached ones included."""
        return len(self._empty) + (self.total - self._untouched) + len(self._cached)

    @property
    def used(self) -> int:
        return self.total - self.free

    @property
    def cached(self) -> int:
        """Free blocks whose content a later prompt may still use."""
        return len(self._cached)

    def allocate(self) -> int:
        """A block with one reference and no name. The caller has checked :attr:`free`."""
        if self._empty:
            block = self._empty.pop()
        elif self._untouched < self.total:
            block = self._untouched
            self._untouched += 1
        else:
            block, _ = self._cached.popitem(last=False)
            self._forget(block)
        self._refs[block] = 1
        return block

    def share(self, block: int) -> None:
        """One more reference to a held block, or the first to a cached one."""
        if self._refs[block] == 0:
            del self._cached[block]
        self._refs[block] += 1

    def shared(self, block: int) -> bool:
        return self._refs[block] > 1

    def refs(self, block: int) -> int:
        return self._refs[block]

    def release(self, block: int) -> None:
        """One reference less; at zero the block is free, last in line for eviction if it has a name."""
        self._refs[block] -= 1
        if self._refs[block] == 0:
            if self._names[block] is None:
                self._empty.append(block)
            else:
                self._cached[block] = None

    def name(self, block: int, name: bytes) -> None:
        """Let :meth:`find` give this full block. A second block with the same content stays nameless."""
        if name not in self._by_name and self._names[block] is None:
            self._by_name[name] = block
            self._names[block] = name

    def find(self, name: bytes) -> int | None:
        return self._by_name.get(name)

    def is_free(self, block: int) -> bool:
        return self._refs[block] == 0

    def forget_cached(self) -> None:
        """Drop the content of every free cached block (weights or adapters changed)."""
        for block in list(self._cached):
            self._forget(block)
            self._empty.append(block)
        self._cached.clear()

    def _forget(self, block: int) -> None:
        name = self._names[block]
        if name is not None:
            del self._by_name[name]
            self._names[block] = None
