"""What a user receives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from penstock.types.common import F32

FinishReason = Literal["stop", "length", "abort", "error", "repetition"]


@dataclass(slots=True)
class RequestMetrics:
    """When things happened, in seconds of ``time.monotonic``; durations in seconds."""

    arrival_time: float = 0.0
    scheduled_time: float | None = None
    first_token_time: float | None = None
    last_token_time: float | None = None
    finished_time: float | None = None
    cached_tokens: int = 0
    preemptions: int = 0
    inter_token_latencies: list[float] = field(default_factory=list)

    @property
    def queued(self) -> float | None:
        return None if self.scheduled_time is None else self.scheduled_time - self.arrival_time

    @property
    def prefill(self) -> float | None:
        if self.scheduled_time is None or self.first_token_time is None:
            return None
        return self.first_token_time - self.scheduled_time

    @property
    def ttft(self) -> float | None:
        return None if self.first_token_time is None else self.first_token_time - self.arrival_time


@dataclass(frozen=True, slots=True)
class Logprob:
    """One token's log probability under the raw distribution; ``rank`` 1 is the most likely."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


TokenLogprobs = dict[int, Logprob]


@dataclass(slots=True)
class CompletionOutput:
    """One answer. ``text`` and ``token_ids`` are cumulative unless the request asked for deltas.

    ``stop_reason``: the stop string or token id that ended it; None for EOS and for length.
    """

    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None = None
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass(slots=True)
class RequestOutput:
    """A request's answers so far; attribute names as vLLM's. ``pooled`` [H]: the prompt's vector, if that was asked.

    ``mistake``: ``error`` lies in what was asked, and would come again.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    metrics: RequestMetrics | None = None
    num_cached_tokens: int = 0
    error: str | None = None
    pooled: F32 | None = None
    mistake: bool = False


@dataclass(slots=True)
class EmbeddingOutput:
    """The vector of a text."""

    embedding: list[float]


@dataclass(slots=True)
class EmbeddingRequestOutput:
    """A prompt's embedding; attribute names as vLLM's."""

    request_id: str
    outputs: EmbeddingOutput
    prompt_token_ids: list[int]
    num_cached_tokens: int = 0
    metrics: RequestMetrics | None = None
    finished: bool = True


Message = Mapping[str, Any]
"""A chat message: ``role``, ``content`` and whatever the template reads."""
