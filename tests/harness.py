"""Runs a program without the engine: batches built by hand from prompts, so that executors can be tested alone.

runner = open_runner(golden("llama") / "ckpt", "torch")
logits = runner.prefill(ids, chunks=[5, 20])   # [len(ids), V]
tokens = runner.greedy(ids, 24)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock.checkpoints.folder import Checkpoint
from penstock.checkpoints.load import stream_weights
from penstock.checkpoints.ties import settle_ties
from penstock.errors import UnsupportedError
from penstock.executors.base import Executor, Limits, resolve
from penstock.models.architecture import Architecture
from penstock.models.decoder import build
from penstock.models.registry import resolve as family_of
from penstock.types import Batch, SamplingBatch, StepOutput

F32 = NDArray[np.float32]
EXECUTORS = ("torch", "native")


@dataclass
class Seq:
    """A sequence and the cache it owns. ``positions`` [channels, tokens so far], when they are not 0, 1, 2 …

    ``prompt`` tokens came as the prompt; ``prompt_len`` is what the executor is told (rotary length rules).
    """

    ids: list[int]
    prompt: int
    prompt_len: int
    blocks: list[int] = field(default_factory=list)
    computed: int = 0
    positions: NDArray[np.int32] | None = None
    bidirectional: int = 0


class Runner:
    """One executor, and blocks handed out in a scrambled order, so that nothing depends on their places."""

    def __init__(self, executor: Executor, channels: int = 1, seed: int = 0) -> None:
        self.executor, self.channels = executor, channels
        self.free = list(range(executor.limits.num_blocks))
        random.Random(seed).shuffle(self.free)
        self.block_size = executor.limits.block_size

    def add(self, ids: Sequence[int], positions: Any = None, bidirectional: int = 0, prompt_len: int = 0) -> Seq:
        return Seq(
            [int(i) for i in ids], len(ids), prompt_len or len(ids), positions=positions, bidirectional=bidirectional
        )

    def drop(self, seq: Seq) -> None:
        self.free += seq.blocks
        seq.blocks, seq.computed = [], 0

    def batch(self, work: Sequence[tuple[Seq, int]], every_row: bool = True, **more: Any) -> Batch:
        """A step that computes the next ``n`` tokens of each sequence; logits of all rows, or of each one's last."""
        tokens: list[int] = []
        slots: list[int] = []
        positions, starts, rows = [], [0], []
        for seq, n in work:
            end = seq.computed + n
            while len(seq.blocks) * self.block_size < end:
                seq.blocks.append(self.free.pop())
            places = range(seq.computed, end)
            tokens += seq.ids[seq.computed : end]
            slots += [seq.blocks[j // self.block_size] * self.block_size + j % self.block_size for j in places]
            plain = np.tile(np.arange(seq.computed, end), (self.channels, 1))
            positions.append(plain if seq.positions is None else self._positions(seq, end)[:, seq.computed :])
            starts.append(starts[-1] + n)
            rows += list(range(starts[-2], starts[-1])) if every_row else [starts[-1] - 1]
        width = max(len(seq.blocks) for seq, _ in work)
        tables = np.full((len(work), width), -1, np.int32)
        for s, (seq, _) in enumerate(work):
            tables[s, : len(seq.blocks)] = seq.blocks
        bidirectional = np.array([seq.bidirectional for seq, _ in work], np.int32)
        return Batch(
            token_ids=np.array(tokens, np.int32), positions=np.concatenate(positions, axis=1).astype(np.int32),
            slots=np.array(slots, np.int64), query_start=np.array(starts, np.int32),
            context_lens=np.array([seq.computed + n for seq, n in work], np.int32), block_tables=tables,
            prompt_lens=np.array([seq.prompt_len for seq, _ in work], np.int32), logits_rows=np.array(rows, np.int32),
            bidirectional=bidirectional if bidirectional.any() else None, **more,
        )  # fmt: skip

    def step(
        self, work: Sequence[tuple[Seq, int]], every_row: bool = True, **more: Any
    ) -> tuple[list[F32], StepOutput]:
        """Run :meth:`batch`; the logits wanted of each sequence, and all of the output."""
        out = self.executor.run(self.batch(work, every_row, return_logits=True, **more))
        assert out.logits is not None
        counts = [n if every_row else 1 for _, n in work]
        for seq, n in work:
            seq.computed += n
        # A copy, since an executor may use the memory again.
        return [part.copy() for part in np.split(out.logits, np.cumsum(counts)[:-1])], out

    def prefill(self, ids: Sequence[int], chunks: Sequence[int] | None = None, **how: Any) -> F32:
        """Logits of every token of the prompt, computed in pieces of ``chunks`` tokens, over and over."""
        seq = self.add(ids, **how)
        logits = [self.step([(seq, n)])[0][0] for n in pieces(len(ids), chunks)]
        self.drop(seq)
        return np.concatenate(logits)

    def greedy(self, ids: Sequence[int], n: int, chunks: Sequence[int] | None = None, **how: Any) -> list[int]:
        """The ``n`` most likely tokens one by one, the lowest id among equals."""
        return self.greedy_together([self.add(ids, **how)], n, chunks)[0]

    def greedy_together(self, seqs: Sequence[Seq], n: int, chunks: Sequence[int] | None = None) -> list[list[int]]:
        """Several at once: prompts first, one by one in pieces, then every decode step as one batch."""
        for seq in seqs:
            for size in pieces(seq.prompt, chunks):
                (logits,), _ = self.step([(seq, size)], every_row=False)
            seq.ids.append(int(logits[-1].argmax()))
        for _ in range(n - 1):
            for seq, logits in zip(seqs, self.step([(seq, 1) for seq in seqs], every_row=False)[0]):
                seq.ids.append(int(logits[-1].argmax()))
        for seq in seqs:
            self.drop(seq)
        return [seq.ids[seq.prompt :] for seq in seqs]

    def _positions(self, seq: Seq, end: int) -> NDArray[np.int32]:
        """Positions of all tokens so far; after those given, the last channel counts on (as ChatGLM-6B's do)."""
        assert seq.positions is not None
        given = np.asarray(seq.positions)
        if given.shape[1] >= end:
            return given[:, :end]
        more = np.repeat(given[:, -1:], end - given.shape[1], axis=1)
        more[-1] += np.arange(1, more.shape[1] + 1)
        return np.concatenate([given, more], axis=1)


def pieces(length: int, chunks: Sequence[int] | None) -> Iterator[int]:
    """``length`` cut into ``chunks``, over and over; one piece where there are none."""
    at = 0
    while length > 0:
        size = min(length, chunks[at % len(chunks)] if chunks else length)
        yield size
        length, at = length - size, at + 1


def executor_class(name: str) -> Callable[..., Any]:
    """The executor class, or a skip with the reason."""
    try:
        return resolve(name)
    except ModuleNotFoundError as error:
        pytest.skip(f"executor {name} is not built: {error}")


def limits(max_context: int = 512, block_size: int = 16, blocks: int = 64, kv_dtype: Any = "f32") -> Limits:
    return Limits(512, 16, 512, max_context, blocks, block_size, kv_dtype)


@contextmanager
def open_runner(
    path: Path, executor: str = "torch", *, config: dict[str, Any] | None = None, block_size: int = 16,
    kv_dtype: str = "f32", words: bool = False, **options: Any,
) -> Iterator[Runner]:  # fmt: skip
    """A checkpoint, loaded. ``config`` takes the place of its config.json; ``options`` go to the executor. ``words``:
    4-bit codes come as the file's words."""
    make = executor_class(executor)
    with Checkpoint.open(path) as checkpoint:
        config = config or checkpoint.config
        family = family_of(config)
        arch = family.architecture(config)
        rules = family.rules(arch, config)
        assert checkpoint.weights is not None
        arch = settle_ties(arch, checkpoint.weights, rules)
        program = build(arch)
        options = {"compute": "f32", "threads": 1, "isa": None, "mode": "static"} | options
        try:
            made = make(program, limits(block_size=block_size, kv_dtype=kv_dtype), **options)
        except UnsupportedError as error:
            pytest.skip(str(error))
        try:
            made.load(stream_weights(checkpoint, program, rules, words=words))
            yield Runner(made, arch.position_channels)
        finally:
            made.close()


def open_arch(path: Path) -> Architecture:
    """The facts of a checkpoint."""
    with Checkpoint.open(path, weights=False) as checkpoint:
        return family_of(checkpoint.config).architecture(checkpoint.config)


def sampling(rows: Sequence[int], vocab: int, **columns: Any) -> SamplingBatch:
    """One entry for each of ``rows``, greedy unless ``columns`` (by field of `SamplingBatch`) say otherwise."""
    n = len(rows)

    def column(name: str, default: Any, dtype: Any, size: int = n) -> Any:
        return np.broadcast_to(np.asarray(columns.pop(name, default), dtype), (size,)).copy()

    def flat(name: str, dtype: Any) -> Any:
        return np.asarray(columns.pop(name, []), dtype)

    batch = SamplingBatch(
        row=np.array(rows, np.int32), target=column("target", -1, np.int32),
        temperature=column("temperature", 0, np.float32), top_k=column("top_k", 0, np.int32),
        top_p=column("top_p", 1, np.float32), min_p=column("min_p", 0, np.float32),
        typical_p=column("typical_p", 1, np.float32),
        repetition=column("repetition", 1, np.float32), presence=column("presence", 0, np.float32),
        frequency=column("frequency", 0, np.float32), seed=column("seed", 0, np.uint64),
        draw=column("draw", 0, np.int64), num_logprobs=column("num_logprobs", -1, np.int32),
        history_start=column("history_start", 0, np.int32, n + 1), history_ids=flat("history_ids", np.int32),
        history_counts=flat("history_counts", np.int32), history_prompt=flat("history_prompt", np.uint8),
        bias_start=column("bias_start", 0, np.int32, n + 1), bias_ids=flat("bias_ids", np.int32),
        bias_values=flat("bias_values", np.float32), mask_row=column("mask_row", -1, np.int32),
        masks=np.asarray(columns.pop("masks", np.zeros((0, (vocab + 31) // 32))), np.uint32),
    )  # fmt: skip
    assert not columns, f"not columns of a sampling batch: {sorted(columns)}"
    return batch
