"""Plain data that travels between rooms: what a request asks, what a step gets, what a user receives."""

from __future__ import annotations

from penstock.types.batch import Batch, Constraint, SamplingBatch, StepOutput
from penstock.types.common import F32, I32, I64, U8, U32, U64
from penstock.types.outputs import (
    CompletionOutput,
    EmbeddingOutput,
    EmbeddingRequestOutput,
    FinishReason,
    Logprob,
    Message,
    RequestMetrics,
    RequestOutput,
    TokenLogprobs,
)
from penstock.types.params import (
    MAX_LOGIT_BIAS,
    MAX_LOGPROBS,
    MAX_N,
    MAX_STOPS,
    MAX_TOKENS,
    RepetitionDetection,
    RequestOutputKind,
    SamplingParams,
)
from penstock.types.structured import StructuredKind, StructuredOutputs

__all__ = [
    "F32",
    "I32",
    "I64",
    "MAX_LOGIT_BIAS",
    "MAX_LOGPROBS",
    "MAX_N",
    "MAX_STOPS",
    "MAX_TOKENS",
    "U8",
    "U32",
    "U64",
    "Batch",
    "CompletionOutput",
    "Constraint",
    "EmbeddingOutput",
    "EmbeddingRequestOutput",
    "FinishReason",
    "Logprob",
    "Message",
    "RepetitionDetection",
    "RequestMetrics",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingBatch",
    "SamplingParams",
    "StepOutput",
    "StructuredKind",
    "StructuredOutputs",
    "TokenLogprobs",
]
