"""An executor without a model: its cache remembers token ids, and the next token is a function of the whole context.

So every mistake in slots, block tables, copies or prefix hits changes the tokens.
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np

from penstock.config import SchedulerConfig
from penstock.engine.admission import ModelFacts
from penstock.engine.engine import Engine, drain
from penstock.errors import ExecutionError
from penstock.executors.base import ExecutorInfo, Held, Hook, Limits, Memory
from penstock.models.program import Program
from penstock.types import F32, Batch, SamplingParams, StepOutput

VOCAB = 97


class FakeExecutor:
    program = Program("fake", (), {}, {}, (), {})

    takes_words = False

    def __init__(self, num_blocks: int = 64, block_size: int = 4, max_tokens: int = 4096) -> None:
        self.limits = Limits(max_tokens, 256, 4096, 1 << 20, num_blocks, block_size, "f32")
        self.cache = np.full(num_blocks * block_size, -1, np.int64)
        self.steps: list[int] = []
        self.fail_next = False
        self.poison: int | None = None
        self.leads = {0}  # how far cache rows may lie before positions: prefixes that do not shift them

    info = ExecutorInfo("fake", "none", 1, "none", {})
    memory = Memory(0, 0, 0, 0)

    def load(self, weights: object) -> None: ...

    def close(self) -> None: ...

    def load_adapter(self, slot: int, tensors: object) -> None: ...

    def unload_adapter(self, slot: int) -> None: ...

    def write_kv(self, layer: int, slots: object, k: object, v: object) -> None: ...

    def held(self, weight: str) -> Held:
        raise NotImplementedError

    def trace(self, batch: Batch, hook: Hook) -> StepOutput:
        raise NotImplementedError

    def run(self, batch: Batch) -> StepOutput:
        size = self.limits.block_size
        assert batch.num_tokens <= self.limits.max_tokens
        if self.fail_next:
            self.fail_next = False
            raise ExecutionError("out of luck")
        self.steps.append(batch.num_tokens)
        for source, target in batch.block_copies if batch.block_copies is not None else ():
            self.cache[target * size : (target + 1) * size] = self.cache[source * size : (source + 1) * size]
        assert len(np.unique(batch.slots)) == batch.num_tokens, "two tokens in one slot"
        self.cache[batch.slots] = batch.token_ids
        contexts: dict[int, tuple[int, ...]] = {}
        for s in range(batch.num_seqs):
            first, last = batch.query_start[s], batch.query_start[s + 1]
            length = int(batch.context_lens[s])
            rows = np.arange(length)
            slots = batch.block_tables[s, rows // size].astype(np.int64) * size + rows % size
            assert (slots[length - (last - first) :] == batch.slots[first:last]).all()
            moved = set((rows[length - (last - first) :] - batch.positions[0, first:last]).tolist())
            assert len(moved) == 1, "positions are not consecutive"
            assert moved <= self.leads
            content = self.cache[slots]
            for offset in range(last - first):
                contexts[int(first) + offset] = tuple(content[: length - (last - first) + offset + 1].tolist())
        return self._sample(batch, contexts)

    def _sample(self, batch: Batch, contexts: dict[int, tuple[int, ...]]) -> StepOutput:
        sampling = batch.sampling
        if sampling is None:
            return StepOutput(np.zeros(0, np.int32), np.zeros(0, np.uint8))
        if sampling.ready is not None:
            sampling.ready()
        n = len(sampling.row)
        tokens = np.zeros(n, np.int32)
        invalid = np.zeros(n, np.uint8)
        for i in range(n):
            context = contexts[int(batch.logits_rows[sampling.row[i]])]
            seed = 0 if sampling.temperature[i] == 0 else int(sampling.seed[i])
            drawn = next_token(context, seed)
            bias = sampling.bias_ids[sampling.bias_start[i] : sampling.bias_start[i + 1]]
            mask = sampling.masks[sampling.mask_row[i]] if sampling.mask_row[i] >= 0 else None
            while drawn in bias or (mask is not None and not mask[drawn // 32] >> np.uint32(drawn % 32) & 1):
                drawn = (drawn + 1) % VOCAB
            tokens[i] = sampling.target[i] if sampling.target[i] >= 0 else drawn
            invalid[i] = self.poison is not None and self.poison in context
        wanted = max(int(sampling.num_logprobs.max(initial=0)), 8)
        top_ids, top_logprobs = np.full((n, wanted), -1, np.int32), np.full((n, wanted), -np.inf, np.float32)
        for i in np.flatnonzero(sampling.num_logprobs > 0).tolist():
            found = logprobs(contexts[int(batch.logits_rows[sampling.row[i]])])
            best = np.argsort(-found, kind="stable")[: sampling.num_logprobs[i]]
            top_ids[i, : len(best)], top_logprobs[i, : len(best)] = best, found[best]
        logits = None
        if batch.return_logits:
            logits = np.stack([logprobs(contexts[int(row)]) + 3 for row in batch.logits_rows])
        return StepOutput(
            tokens,
            invalid,
            -tokens.astype(np.float32) - 1,
            np.ones(n, np.int32),
            top_ids,
            top_logprobs,
            logits,
        )


def next_token(context: tuple[int, ...], seed: int = 0) -> int:
    data = np.asarray([seed % (1 << 62), *context], np.int64).tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=4).digest(), "little") % VOCAB


@functools.lru_cache(maxsize=20_000)
def logprobs(context: tuple[int, ...]) -> F32:
    """A distribution over the vocabulary whose best token is :func:`next_token`; coarse, so that ties are common."""
    data = np.asarray(context, np.int64).tobytes()
    rng = np.random.default_rng(int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little"))
    x = np.round(rng.standard_normal(VOCAB) * 8) / 4
    x[next_token(context)] = x.max() + 0.25
    found: F32 = (x - np.log(np.exp(x).sum())).astype(np.float32)
    return found


def make_engine(
    num_blocks: int = 64,
    block_size: int = 4,
    max_model_len: int = 512,
    prefix_caching: bool = True,
    eos: frozenset[int] = frozenset(),
    whole_prompts: bool = False,
    **config: int,
) -> Engine:
    values = {"max_num_seqs": 8, "max_num_batched_tokens": 32, "max_logits_rows": 32, **config}
    facts = ModelFacts(VOCAB, max_model_len, eos, boundary=len if whole_prompts else None)
    executor = FakeExecutor(num_blocks, block_size)
    return Engine(executor, facts, SchedulerConfig(**values), prefix_caching=prefix_caching)


def expected(prompt: list[int], count: int, seed: int = 0) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tuple(tokens), seed))
    return tokens[len(prompt) :]


def fake(engine: Engine) -> FakeExecutor:
    assert isinstance(engine.executor, FakeExecutor)
    return engine.executor


def run_all(engine: Engine) -> dict[tuple[str, int], list[int]]:
    """Drain; tokens by (request id, answer)."""
    found: dict[tuple[str, int], list[int]] = {}
    for update in drain(engine):
        found.setdefault((update.request.request_id, update.index), []).extend(update.token_ids)
    return found


def greedy(max_tokens: int = 8, **kwargs: object) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=max_tokens, **kwargs)  # type: ignore[arg-type]
