"""Requests and sequences as the engine sees them: token ids and counts.

A sequence has tokens (prompt and output) and a count ``computed`` of those whose keys and values are in its blocks.
There are no phases: a sequence wants ``len(tokens) - computed`` more; one means decoding, more means a prompt, a chunk
of one, or a recomputation.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from enum import Enum
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from penstock.engine.pooling import Pooling
from penstock.types import F32, U32, Constraint, FinishReason, RequestMetrics, SamplingParams

if TYPE_CHECKING:
    from penstock.engine.beam import BeamSearch


class Status(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values that stand before a request's first token (P-Tuning, prefix-tuning), in pinned shared blocks.

    ``rows`` cache rows in ``blocks``, the last of which may be partly filled. ``shifts``: the first token's position is
    ``rows`` (PEFT), not 0 (ChatGLM's P-Tuning). ``serial`` differs between all prefixes ever loaded.
    """

    name: str
    rows: int
    blocks: tuple[int, ...]
    shifts: bool = False
    serial: int = 0


@dataclass(slots=True, eq=False)
class Request:
    """One request: a prompt and ``width`` answers to it. ``eos_ids`` and ``stop_ids`` end an answer."""

    request_id: str
    prompt: list[int]
    params: SamplingParams
    max_tokens: int
    eos_ids: frozenset[int]
    stop_ids: frozenset[int]
    seed: int
    metrics: RequestMetrics
    cache_salt: str = ""
    adapter: int = 0
    adapter_serial: int = 0  # differs between all adapters ever loaded, as slots do not
    length_key: int = 0
    priority: int = 0
    order: int = 0
    mask: U32 | None = None
    bad_words: tuple[tuple[int, ...], ...] = ()
    boundary: int = 0
    prefix: Prefix | None = None
    beams: BeamSearch | None = None
    client: str = ""
    turn: int = -1  # among those of all clients; -1: not given yet
    pooling: Pooling | None = None  # the prompt is computed for its hidden states, and no token is drawn
    sequences: list[Sequence] = field(default_factory=list)
    prompt_scores: list[PromptScore] = field(default_factory=list)
    last_ids: frozenset[int] = field(init=False)  # eos and stop ids
    width: int = field(init=False)  # sequences that are computed
    num_answers: int = field(init=False)  # that are given out, each with an index
    # Prompt logprobs and means need every prompt row computed, so they neither use nor feed the prefix cache.
    cacheable: bool = field(init=False)
    num_logprobs: int = field(init=False)  # -1: none; 0: the chosen token's; k: the k best as well

    def __post_init__(self) -> None:
        params = self.params
        self.last_ids = self.eos_ids | self.stop_ids
        self.width = params.best_of or params.n
        self.num_answers = params.n if params.use_beam_search else self.width
        whole = self.pooling is not None and self.pooling.kind == "mean"
        self.cacheable = params.prompt_logprobs is None and not whole
        self.num_logprobs = params.logprobs if params.logprobs is not None else 0 if self.width > params.n else -1

    def seed_of(self, index: int) -> int:
        """The seed of answer ``index``; answer 0 has the request's own, so n does not change it."""
        if index == 0:
            return self.seed
        data = self.seed.to_bytes(8, "little") + index.to_bytes(4, "little")
        return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A chosen token's log probability and rank, and the best tokens with theirs."""

    token_id: int
    logprob: float
    rank: int
    top_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()
    top_ranks: tuple[int, ...] = ()  # 1, 2, 3 … where it is empty


PromptScore = TokenScore


@dataclass(slots=True, eq=False)
class Sequence:
    """One answer in the making. ``seat`` is its row in the engine's tables while it runs.

    cache rows   |<-- lead (prefix) -->|<-- computed tokens -->|<-- wanted -->|
    """

    request: Request
    index: int
    tokens: list[int]
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    block_names: list[bytes] = field(default_factory=list)
    status: Status = Status.WAITING
    seat: int = -1
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    cumulative_logprob: float = 0.0
    counts: dict[int, int] | None = None
    constraint: Constraint | None = None
    prompt_len: int = field(init=False)
    lead: int = field(init=False)  # cache rows before the first token: token i lies in cache row lead + i
    shift: int = field(init=False)  # the first token's position
    rotary_len: int = field(init=False)  # the prompt's length where a rotary embedding goes by it
    length_key: int = field(init=False)

    def __post_init__(self) -> None:
        prefix = self.request.prefix
        self.prompt_len = len(self.request.prompt)
        self.lead = prefix.rows if prefix is not None else 0
        self.shift = self.lead if prefix is not None and prefix.shifts else 0
        self.rotary_len = self.prompt_len + self.shift
        self.length_key = self.request.length_key

    @property
    def wanted(self) -> int:
        return len(self.tokens) - self.computed

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.prompt_len

    @property
    def finished(self) -> bool:
        return self.status is Status.FINISHED

    def append(self, token: int) -> None:
        self.tokens.append(token)
        if self.counts is not None:
            self.counts[token] = self.counts.get(token, 0) + 1

    def barred(self) -> list[int]:
        """Tokens that would complete a bad word. Its first tokens may lie in the answer only, as in vLLM."""
        said = self.tokens[self.prompt_len :]
        found = []
        for word in self.request.bad_words:
            before = len(word) - 1
            if before == 0 or (len(said) >= before and tuple(said[-before:]) == word[:-1]):
                found.append(word[-1])
        return found

    def fork(self, index: int) -> Sequence:
        """A sibling with the same tokens and the same blocks; the caller takes the references."""
        child = Sequence(self.request, index, [])
        child.become(self)
        return child

    def become(self, other: Sequence) -> None:
        """Take over what ``other`` has; the caller sees to references to blocks."""
        self.tokens, self.computed = list(other.tokens), other.computed
        self.blocks, self.block_names = list(other.blocks), list(other.block_names)
        self.rotary_len, self.length_key = other.rotary_len, other.length_key
        self.counts = dict(other.counts) if other.counts is not None else None
        self.constraint = other.constraint.copy() if other.constraint is not None else None


@dataclass(slots=True)
class SequenceUpdate:
    """What one step did for one sequence. Tokens are new ones only; scores stand beside them when asked for.

    ``pooled`` [H]: the vector of a whole prompt, for requests with ``pooling``. ``mistake``: ``error`` lies in what was
    asked, and would come again.
    """

    request: Request
    index: int
    token_ids: Seq[int]
    scores: Seq[TokenScore]
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    error: str | None = None
    pooled: F32 | None = None
    mistake: bool = False


def bit_mask(ids: Iterable[int], vocab_size: int) -> U32:
    """[ceil(vocab/32)] bit mask with exactly ``ids`` allowed."""
    mask = np.zeros((vocab_size + 31) // 32, np.uint32)
    index = np.fromiter(ids, np.int64)
    np.bitwise_or.at(mask, index // 32, (np.uint32(1) << (index % 32).astype(np.uint32)))
    return mask
