"""A decode step that is the one before, one token further: most steps are, and their arrays are counted on in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from penstock.engine.scheduler import Plan
from penstock.engine.sequence import Sequence
from penstock.types import Batch

if TYPE_CHECKING:
    from penstock.engine.batch import Entry

ONE32, ONE64 = np.ones((), np.int32), np.ones((), np.int64)  # a plain 1 would be made an array at each addition
MORE_BLOCKS = 16


class Steady:
    """A batch in which every sequence decoded one token, in a way that will not change, and so may go on."""

    def __init__(self, seqs: list[Sequence], batch: Batch, entries: list[Entry], block_size: int) -> None:
        assert batch.sampling is not None
        self.seqs, self.batch, self.entries = seqs, batch, entries
        self._size = block_size
        self._room = 0  # steps until a block is full; 0: not known, look
        self._ints = np.stack([batch.positions[0], batch.context_lens])
        self._longs = np.stack([batch.slots, batch.sampling.draw])
        batch.positions, batch.context_lens = self._ints[:1], self._ints[1]
        batch.slots, batch.sampling.draw = self._longs

    @staticmethod
    def of(plan: Plan, batch: Batch, entries: list[Entry], block_size: int) -> Steady | None:
        """The step, if the next one has only to count on: no constraint, penalty or bias that follows the tokens, none
        that ends with ``min_tokens``; its positions are one channel."""
        if batch.sampling is None:
            return None
        for item in plan.items:
            seq = item.seq
            if item.count > 1 or not item.completes or item.followers or seq.counts is not None:
                return None
            if seq.constraint is not None or seq.request.bad_words or seq.request.params.watermark:
                return None
            if seq.num_output < max(1, seq.request.params.min_tokens):
                return None
        return Steady([item.seq for item in plan.items], batch, entries, block_size)

    def continues(self, plan: Plan) -> bool:
        """Whether ``plan`` is one token more for each, and nothing else. Nobody took a seat since."""
        return not plan.copies and [item.seq for item in plan.items] == self.seqs

    def advance(self) -> Batch:
        """The batch of the next step: the same one, filled anew."""
        batch = self.batch
        np.add(self._ints, ONE32, self._ints)
        np.add(self._longs, ONE64, self._longs)
        batch.token_ids[:] = [seq.tokens[-1] for seq in self.seqs]
        batch.block_copies = None
        if self._room == 0:
            self._begin_blocks()
        self._room -= 1
        return batch

    def _begin_blocks(self) -> None:
        """Those whose last block is full go on in a new one."""
        batch, size = self.batch, self._size
        offsets = (batch.context_lens - ONE32) % size
        for i in np.flatnonzero(offsets == 0).tolist():
            seq = self.seqs[i]
            index = (seq.lead + seq.computed) // size
            if index >= batch.block_tables.shape[1]:
                batch.block_tables = np.pad(batch.block_tables, ((0, 0), (0, MORE_BLOCKS)), constant_values=-1)
            batch.block_tables[i, index] = seq.blocks[index]
            batch.slots[i] = seq.blocks[index] * size
        self._room = size - int(offsets.max())
