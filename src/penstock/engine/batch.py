"""From a plan to a :class:`Batch`: plain arrays, built from tables that are filled when a sequence takes its seat."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.engine.masks import Masks
from penstock.engine.scheduler import Plan, Scheduled
from penstock.engine.sequence import Sequence
from penstock.engine.steady import Steady
from penstock.types import I32, Batch, SamplingBatch
from penstock.watermark import Watermark

Columns = tuple[Collection[float] | NDArray[Any], ...]
Positions = Callable[[Sequence, int, int], I32]
"""``(sequence, start, count) -> [channels, count]`` positions of its tokens start .. start + count."""


def plain_positions(seq: Sequence, start: int, count: int) -> I32:
    """One channel; a token's position is its index."""
    return np.arange(start, start + count, dtype=np.int32)[None]


@dataclass(slots=True)
class Entry:
    """What one sampling entry is for: the next token of ``seq``, or (``prompt_index``) the score of a prompt token.

    ``error``: why its constraint cannot go on, known when the step has run; ``mistake``: that lies in what was asked.
    """

    seq: Sequence
    prompt_index: int = -1
    error: str | None = None
    mistake: bool = False


class BatchBuilder:
    """Builds batches for at most ``max_seqs`` seated sequences of at most ``max_blocks`` blocks."""

    def __init__(
        self,
        max_seqs: int,
        max_blocks: int,
        block_size: int,
        masks: Masks,
        watermark: Watermark,
        positions: Positions = plain_positions,
    ) -> None:
        self.block_size = block_size
        self.masks = masks
        self.watermark = watermark
        self.positions = positions
        self._tables = np.full((max_seqs, max_blocks), -1, np.int32)
        self._table_len = [0] * max_seqs
        self._floats = np.zeros((7, max_seqs), np.float32)
        self._top_k = np.zeros(max_seqs, np.int32)
        self._num_logprobs = np.zeros(max_seqs, np.int32)
        self._seed = np.zeros(max_seqs, np.uint64)
        self._prompt_len = np.zeros(max_seqs, np.int32)
        self._adapter = np.zeros(max_seqs, np.int32)
        self._boundary = np.zeros(max_seqs, np.int32)
        self._steady: Steady | None = None

    def seat(self, seq: Sequence) -> None:
        """Write what does not change while ``seq`` runs into its seat's row."""
        params, seat = seq.request.params, seq.seat
        temperature = 0.0 if params.greedy else params.temperature
        self._floats[:, seat] = (
            temperature, params.top_p, params.min_p, params.typical_p,
            params.repetition_penalty, params.presence_penalty, params.frequency_penalty,
        )  # fmt: skip
        self._top_k[seat] = params.top_k
        self._num_logprobs[seat] = seq.request.num_logprobs
        self._seed[seat] = seq.request.seed_of(seq.index)
        self._prompt_len[seat] = seq.rotary_len
        self._adapter[seat] = seq.request.adapter
        self._boundary[seat] = seq.lead + seq.request.boundary if seq.request.boundary else 0
        self._table_len[seat] = 0
        self._steady = None

    def build(self, plan: Plan) -> tuple[Batch, list[Entry]]:
        """The step's arrays, and what each sampling entry stands for. They are the caller's until the next call."""
        steady = self._steady
        if steady is not None and steady.continues(plan):
            return steady.advance(), steady.entries
        batch, entries = self._build(plan)
        plain = self.positions is plain_positions
        self._steady = Steady.of(plan, batch, entries, self.block_size) if plain else None
        return batch, entries

    def _build(self, plan: Plan) -> tuple[Batch, list[Entry]]:
        items = plan.items
        seats = np.fromiter((i.seq.seat for i in items), np.int64, len(items))
        counts = np.fromiter((i.count for i in items), np.int32, len(items))
        starts = np.fromiter((i.seq.lead + i.seq.computed for i in items), np.int32, len(items))
        query_start = np.zeros(len(items) + 1, np.int32)
        np.cumsum(counts, out=query_start[1:])
        token_ids, positions, indexes = self._tokens(items, query_start, starts)
        for item in items:
            self._sync(item.seq)
        width = max(self._table_len[s] for s in seats)
        tables = np.ascontiguousarray(self._tables[seats, :width])
        owner = np.repeat(np.arange(len(items)), counts)
        slots = tables[owner, indexes // self.block_size].astype(np.int64) * self.block_size + indexes % self.block_size
        rows, entries, sampling = self._sampling(items, query_start)
        adapters = self._adapter[seats]
        boundaries = self._boundary[seats]
        batch = Batch(
            token_ids=token_ids,
            positions=positions,
            slots=slots,
            query_start=query_start,
            context_lens=starts + counts,
            block_tables=tables,
            prompt_lens=self._prompt_len[seats],
            logits_rows=rows,
            sampling=sampling,
            bidirectional=boundaries if boundaries.any() else None,
            adapters=adapters if adapters.any() else None,
            block_copies=np.asarray(plan.copies, np.int32) if plan.copies else None,
            return_logits=any(_wants_logits(entry) for entry in entries),
            return_hidden=any(item.seq.request.pooling is not None for item in items),
        )
        return batch, entries

    def _tokens(self, items: list[Scheduled], query_start: I32, starts: I32) -> tuple[I32, I32, I32]:
        """Ids, positions [channels, T] and cache indexes of the step's tokens."""
        if self.positions is plain_positions and len(items) == query_start[-1]:
            ids = np.fromiter((i.seq.tokens[i.seq.computed] for i in items), np.int32, len(items))
            shifts = np.fromiter((i.seq.shift - i.seq.lead for i in items), np.int32, len(items))
            return ids, (starts + shifts)[None], starts
        flat: list[int] = []
        for item in items:
            seq = item.seq
            flat += seq.tokens[seq.computed : seq.computed + item.count]
        chunks = [self.positions(i.seq, i.seq.computed, i.count) + np.int32(i.seq.shift) for i in items]
        positions = np.concatenate(chunks, axis=1)
        indexes = np.concatenate([np.arange(s, s + i.count, dtype=np.int32) for s, i in zip(starts, items)])
        return np.asarray(flat, np.int32), positions.astype(np.int32, copy=False), indexes

    def _sync(self, seq: Sequence) -> None:
        """Bring the seat's block table up to date. The last known block may have been replaced (copy-on-write)."""
        known = self._table_len[seq.seat]
        if len(seq.blocks) != known or (known and self._tables[seq.seat, known - 1] != seq.blocks[-1]):
            self._tables[seq.seat, : len(seq.blocks)] = seq.blocks
            self._table_len[seq.seat] = len(seq.blocks)

    def _sampling(self, items: list[Scheduled], query_start: I32) -> tuple[I32, list[Entry], SamplingBatch | None]:
        rows: list[int] = []
        entries: list[Entry] = []
        row_of: list[int] = []
        targets: list[int] = []
        for item, start in zip(items, query_start.tolist(), strict=False):
            seq = item.seq
            if seq.request.params.prompt_logprobs is not None and seq.num_output == 0 and seq.index == 0:
                for offset in range(item.count):
                    index = seq.computed + offset + 1
                    if index < seq.prompt_len and index > len(seq.request.prompt_scores):
                        rows.append(start + offset)
                        row_of.append(len(rows) - 1)
                        entries.append(Entry(seq, index))
                        targets.append(seq.tokens[index])
            if item.completes and seq.request.pooling is None:
                rows.append(start + item.count - 1)
                for each in (seq, *item.followers):
                    row_of.append(len(rows) - 1)
                    entries.append(Entry(each))
                    targets.append(-1)
        if not entries:
            return np.zeros(0, np.int32), entries, None
        return np.asarray(rows, np.int32), entries, self._sampling_batch(entries, row_of, targets)

    def _sampling_batch(self, entries: list[Entry], rows: list[int], targets: list[int]) -> SamplingBatch:
        n = len(entries)
        seats = np.fromiter((e.seq.seat for e in entries), np.int64, n)
        temperature, top_p, min_p, typical_p, repetition, presence, frequency = self._floats[:, seats]
        num_logprobs = self._num_logprobs[seats]
        for i, entry in enumerate(entries):
            if entry.prompt_index >= 0:
                num_logprobs[i] = entry.seq.request.params.prompt_logprobs or 0
        bias = _ragged(entries, self._bias, np.int32, np.float32)
        history = _ragged(entries, _history, np.int32, np.int32, np.uint8)
        masks, mask_row, ready = self.masks.begin(entries)
        return SamplingBatch(
            row=np.asarray(rows, np.int32),
            target=np.asarray(targets, np.int32),
            temperature=temperature,
            top_k=self._top_k[seats],
            top_p=top_p,
            min_p=min_p,
            typical_p=typical_p,
            repetition=repetition,
            presence=presence,
            frequency=frequency,
            seed=self._seed[seats],
            draw=np.fromiter((e.seq.num_output for e in entries), np.int64, n),
            num_logprobs=num_logprobs,
            history_start=history[0],
            history_ids=history[1],
            history_counts=history[2],
            history_prompt=history[3],
            bias_start=bias[0],
            bias_ids=bias[1],
            bias_values=bias[2],
            mask_row=mask_row,
            masks=masks,
            ready=ready,
        )

    def _bias(self, entry: Entry) -> Columns | None:
        """Token biases of one entry; before ``min_tokens`` whatever would end the answer is impossible."""
        seq = entry.seq
        params = seq.request.params
        if entry.prompt_index >= 0:
            return None
        bias = dict(params.logit_bias or {})
        if seq.request.bad_words:
            bias.update(dict.fromkeys(seq.barred(), float("-inf")))
        if seq.num_output < params.min_tokens and seq.constraint is None:  # a constraint says itself when to end
            bias.update(dict.fromkeys((*seq.request.eos_ids, *seq.request.stop_ids), float("-inf")))
        if not params.watermark:
            return (bias, bias.values()) if bias else None
        green, more = self.watermark.bias(seq.tokens[-1])
        return np.append([*bias], green), np.append([*bias.values()], more)


def _wants_logits(entry: Entry) -> bool:
    request = entry.seq.request
    if request.beams is not None:
        return request.beams.wants_logits
    return bool(request.params.logprob_token_ids) and entry.prompt_index < 0


def _history(entry: Entry) -> Columns | None:
    """Distinct tokens of prompt and output with output counts, kept only for sequences that have penalties."""
    counts = entry.seq.counts
    if counts is None or entry.prompt_index >= 0:
        return None
    prompt = set(entry.seq.request.prompt)
    ids = prompt.union(counts)
    return ids, [counts.get(t, 0) for t in ids], [t in prompt for t in ids]


def _ragged(
    entries: list[Entry], of: Callable[[Entry], Columns | None], *dtypes: type[np.generic]
) -> list[NDArray[Any]]:
    """``[start, column, …]``: flat columns of all entries, entry i's part being start[i]:start[i+1]."""
    start = np.zeros(len(entries) + 1, np.int32)
    columns: list[list[NDArray[Any]]] = [[np.zeros(0, dtype)] for dtype in dtypes]
    for i, entry in enumerate(entries):
        found = of(entry)
        start[i + 1] = start[i] + (len(found[0]) if found is not None else 0)
        for column, values, dtype in zip(columns, found or (), dtypes):
            column.append(values if isinstance(values, np.ndarray) else np.fromiter(values, dtype, len(values)))
    return [start, *(np.concatenate(c, dtype=d, casting="unsafe") for c, d in zip(columns, dtypes, strict=True))]
