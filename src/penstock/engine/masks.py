"""Masks of answers that have a constraint, computed beside the model's step: they are needed at its end only.

engine     build ──► executor.run: forward ────────────────► sample ──► update (accept: notes the token)
              │                                                ▲
masks         └──► constraint.mask() of each answer ──► ready ─┘
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from penstock.engine.sequence import Sequence as Seq
from penstock.errors import ExecutionError
from penstock.types import I32, U32, SamplingBatch

logger = logging.getLogger(__name__)
ALL = np.uint32(0xFFFFFFFF)


class Place(Protocol):
    """Where a mask goes: the entry of a step. ``error``: why its answer cannot go on, ``mistake``: as asked for."""

    seq: Seq
    prompt_index: int
    error: str | None
    mistake: bool


class Masks:
    """Fills the masks of a step; ``words`` is ceil(vocab / 32). One thread, started when first needed."""

    def __init__(self, words: int) -> None:
        self._words = words
        self._thread: ThreadPoolExecutor | None = None

    def begin(self, entries: Sequence[Place]) -> tuple[U32, I32, Callable[[], None] | None]:
        """``(masks [M, words], mask_row [N], ready)``: the masks are there when ``ready`` returns; None: at once.

        A constraint that fails leaves its reason with its entry, and allows everything for this step.
        """
        rows = np.full(len(entries), -1, np.int32)
        wanted = [i for i, e in enumerate(entries) if e.prompt_index < 0 and _masked(e.seq)]
        rows[wanted] = np.arange(len(wanted), dtype=np.int32)
        masks = np.empty((len(wanted), self._words if wanted else 0), np.uint32)
        asked: list[tuple[Place, U32]] = []
        for i in wanted:
            entry, row = entries[i], masks[rows[i]]
            own = entry.seq.request.mask
            row[:] = ALL if own is None else own
            if entry.seq.constraint is not None:
                asked.append((entry, row))
        if not asked:
            return masks, rows, None
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "penstock-masks")
        return masks, rows, self._thread.submit(_fill, asked).result

    def close(self) -> None:
        """End the thread. The next step that needs it starts another."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None


def nothing_left(sampling: SamplingBatch, i: int, vocab_size: int) -> bool:
    """Whether the biases and the mask of entry ``i`` together allow no token at all."""
    left = np.ones(vocab_size, np.bool_)
    if sampling.mask_row[i] >= 0:
        left = np.unpackbits(sampling.masks[sampling.mask_row[i]].view(np.uint8), bitorder="little")[:vocab_size] > 0
    span = slice(sampling.bias_start[i], sampling.bias_start[i + 1])
    left[sampling.bias_ids[span][np.isneginf(sampling.bias_values[span])]] = False
    return not left.any()


def _masked(seq: Seq) -> bool:
    return seq.constraint is not None or seq.request.mask is not None


def _fill(asked: Sequence[tuple[Place, U32]]) -> None:
    for entry, row in asked:
        assert entry.seq.constraint is not None
        try:
            row &= entry.seq.constraint.mask()
        except ExecutionError as error:
            entry.error, entry.mistake = str(error), True
        except BaseException as error:  # a library's panic is no Exception, and ends this answer only
            logger.exception("a constraint failed")
            entry.error = f"structured output failed: {error}"[:300]
