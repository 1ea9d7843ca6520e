"""Plain data that travels between rooms: what a request asks, what a step gets, what a user receives."""

from __future__ import annotations

import json as _json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.errors import RequestError, nearest

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
U32 = NDArray[np.uint32]
U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

MAX_N = 128
MAX_LOGPROBS = 100
MAX_STOPS = 64
MAX_LOGIT_BIAS = 4096
MAX_TOKENS = 1 << 24
MAX_CHOICES = 4096

FLAGS = (
    "ignore_eos",
    "detokenize",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "include_stop_str_in_output",
    "use_beam_search",
)

BEAM_NEUTRAL: dict[str, tuple[float, ...]] = {
    "temperature": (0.0, 1.0),
    "top_p": (1.0,),
    "top_k": (0,),
    "min_p": (0.0,),
    "presence_penalty": (0.0,),
    "frequency_penalty": (0.0,),
}
"""What beam search has no use for, with the values that change nothing."""

FinishReason = Literal["stop", "length", "abort", "error"]


class RequestOutputKind(Enum):
    """What a stream yields: all text so far, only what is new, or one final output."""

    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


def _bad(name: str, value: object, want: str) -> RequestError:
    return RequestError(f"{name} must be {want}, got {value!r}", name)


StructuredKind = Literal["json", "regex", "choice", "grammar", "json_object", "structural_tag"]
STRUCTURED: tuple[StructuredKind, ...] = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")


@dataclass(frozen=True, slots=True)
class StructuredOutputs:
    """What an answer must be: exactly one of the first six. Names and meanings as vLLM's.

    ``json``: a JSON schema (a mapping, a boolean, or its text); ``json_object``: any JSON object; ``regex``: the whole
    answer, in the syntax of Rust's regex crate; ``choice``: one of these texts; ``grammar``: Lark or GBNF;
    ``structural_tag``: ``{"structures": [{"begin", "schema", "end"}], "triggers": […]}`` (or its text): free text, in
    which whatever begins with a trigger goes on as its schema says. ``whitespace_pattern``: a regular expression for
    the blank space within JSON; ``disable_any_whitespace``: none; ``disable_additional_properties``: objects have no
    others than those listed. ``param``: how the request calls this, for error messages. Raises ``RequestError``.
    """

    json: Mapping[str, Any] | bool | str | None = None
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: Mapping[str, Any] | str | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None
    param: str = "structured_outputs"

    def __post_init__(self) -> None:
        named = [name for name in STRUCTURED if getattr(self, name) is not None and getattr(self, name) is not False]
        if self.json is False:
            named.insert(0, "json")
        if len(named) != 1:
            said = f"not both {named[0]} and {named[1]}" if named else "none is given"
            raise self._bad(f"give one of {', '.join(STRUCTURED)}: {said}")
        for name in ("disable_any_whitespace", "disable_additional_properties"):
            if not isinstance(getattr(self, name), bool):
                raise self._bad(f"{name} must be true or false")
        if self.whitespace_pattern is not None and not isinstance(self.whitespace_pattern, str):
            raise self._bad("whitespace_pattern must be a regular expression as text")
        object.__setattr__(self, named[0], self._checked(named[0]))

    @classmethod
    def of(cls, given: Mapping[str, Any], param: str = "structured_outputs") -> StructuredOutputs:
        """From a request's mapping. Raises ``RequestError`` for a name that is unknown."""
        known = [f.name for f in fields(cls) if f.name != "param"]
        for name in given:
            if name not in known:
                raise RequestError(f"{param}: unknown option '{str(name)[:64]}'{nearest(str(name), known)}", param)
        return cls(**{name: value for name, value in given.items() if value is not None}, param=param)

    @property
    def kind(self) -> StructuredKind:
        return next(k for k in STRUCTURED if getattr(self, k) is not None and (k == "json" or getattr(self, k)))

    @property
    def value(self) -> str:
        """The specification as text: JSON for schemas, tags and choices."""
        found = getattr(self, self.kind)
        return found if isinstance(found, str) else _json.dumps(found)  # true, for json_object

    def _checked(self, name: str) -> Any:
        value = getattr(self, name)
        if name in ("json", "structural_tag") and isinstance(value, bool | Mapping) and (name == "json" or value):
            try:
                return _json.dumps(value, allow_nan=False)
            except (TypeError, ValueError, RecursionError) as error:
                raise self._bad(f"{name} is no JSON, or nested too deeply: {str(error)[:200]}") from None
        if name == "json_object":
            if value is not True:
                raise self._bad("json_object must be true")
        elif name == "choice":
            listed = not isinstance(value, str) and isinstance(value, Sequence) and 0 < len(value) <= MAX_CHOICES
            if not listed or any(not isinstance(text, str) or not text for text in value):
                raise self._bad(f"choice must be a list of 1 to {MAX_CHOICES} texts, none empty")
            return tuple(value)
        elif not isinstance(value, str) or not value:
            raise self._bad(f"{name} must be {'a JSON schema' if name == 'json' else 'text'}, not empty")
        return value

    def _bad(self, message: str) -> RequestError:
        return RequestError(f"{self.param}: {message}", self.param)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen. Names and meanings as vLLM's; every field is checked on construction.

    Order: ``logit_bias``, penalties (repetition over prompt and output as in transformers; presence and frequency over
    output), ``temperature`` (0 is greedy), ``top_k`` (0 or -1 off), ``top_p``, ``min_p``, then one draw with ``seed``.
    ``max_tokens`` None means as many as the context allows. ``logprobs`` n: the chosen token's and the n best, of the
    raw distribution. Raises ``RequestError`` that names the field.

    ``use_beam_search``: the best ``n`` answers that ``best_of`` (else ``n``) beams find, given out when all are known;
    nothing is drawn. ``length_penalty`` and ``early_stopping`` (True, False, "never") as in transformers: the answers'
    order is by ``cumulative_logprob / tokens ** length_penalty``. Stop strings cut the answers that were found.
    """

    n: int = 1
    best_of: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    logit_bias: Mapping[int, float] | None = None
    allowed_token_ids: tuple[int, ...] | None = None
    structured_outputs: StructuredOutputs | Mapping[str, Any] | None = None
    use_beam_search: bool = False
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        if isinstance(self.stop, str):
            set_(self, "stop", (self.stop,))
        set_(self, "stop", tuple(self.stop or ()))
        set_(self, "stop_token_ids", tuple(self.stop_token_ids or ()))
        if self.allowed_token_ids is not None:
            set_(self, "allowed_token_ids", tuple(self.allowed_token_ids))
        if self.top_k == -1:
            set_(self, "top_k", 0)
        if isinstance(self.structured_outputs, Mapping):
            set_(self, "structured_outputs", StructuredOutputs.of(self.structured_outputs))
        elif not isinstance(self.structured_outputs, StructuredOutputs | None):
            raise _bad("structured_outputs", self.structured_outputs, "a StructuredOutputs or a mapping of its fields")
        for name in FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise _bad(name, getattr(self, name), "true or false")
        self._check_counts()
        self._check_numbers()
        self._check_lists()
        self._check_beams()

    def _check_counts(self) -> None:
        for name, low, high in (
            ("n", 1, MAX_N),
            ("best_of", 1, MAX_N),
            ("top_k", 0, 1 << 31),
            ("max_tokens", 1, MAX_TOKENS),
            ("min_tokens", 0, MAX_TOKENS),
            ("logprobs", 0, MAX_LOGPROBS),
            ("prompt_logprobs", 0, MAX_LOGPROBS),
            ("seed", -(1 << 63), (1 << 64) - 1),
        ):
            value = getattr(self, name)
            if value is None and name in ("best_of", "max_tokens", "logprobs", "prompt_logprobs", "seed"):
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
                raise _bad(name, value, f"an integer from {low} to {high}")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise _bad("min_tokens", self.min_tokens, f"at most max_tokens ({self.max_tokens})")
        if self.best_of is not None and self.best_of < self.n:
            raise _bad("best_of", self.best_of, f"at least n ({self.n})")

    def _check_numbers(self) -> None:
        for name, low, high, open_low in (
            ("temperature", 0.0, 100.0, False),
            ("top_p", 0.0, 1.0, True),
            ("min_p", 0.0, 1.0, False),
            ("repetition_penalty", 0.0, 100.0, True),
            ("presence_penalty", -100.0, 100.0, False),
            ("frequency_penalty", -100.0, 100.0, False),
            ("length_penalty", -10.0, 10.0, False),
        ):
            value = getattr(self, name)
            ok = isinstance(value, int | float | np.floating) and not isinstance(value, bool) and math.isfinite(value)
            if not ok or not (low < value if open_low else low <= value) or value > high:
                raise _bad(name, value, f"a number {'above' if open_low else 'from'} {low:g} up to {high:g}")

    def _check_beams(self) -> None:
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise _bad("early_stopping", self.early_stopping, 'true, false or "never"')
        if not self.use_beam_search:
            for name, usual in (("length_penalty", 1.0), ("early_stopping", False)):
                if getattr(self, name) != usual:
                    raise RequestError(f"{name} belongs to beam search: set use_beam_search, or leave it out", name)
            return
        for name, allowed in BEAM_NEUTRAL.items():
            if getattr(self, name) not in allowed:
                said = f"{name}={getattr(self, name)!r} has no meaning with use_beam_search, which draws nothing"
                raise RequestError(f"{said}: leave it out", name)

    def _check_lists(self) -> None:
        if len(self.stop) > MAX_STOPS or any(not isinstance(s, str) or not s for s in self.stop):
            raise _bad("stop", self.stop, f"at most {MAX_STOPS} strings, none empty")
        for name in ("stop_token_ids", "allowed_token_ids"):
            ids = getattr(self, name)
            if ids and any(isinstance(t, bool) or not isinstance(t, int | np.integer) or t < 0 for t in ids):
                raise _bad(name, ids, "token ids (integers from 0)")
        if self.allowed_token_ids is not None and not self.allowed_token_ids:
            raise _bad("allowed_token_ids", [], "None or at least one token id")
        if self.logit_bias:
            if len(self.logit_bias) > MAX_LOGIT_BIAS:
                raise _bad("logit_bias", f"{len(self.logit_bias)} entries", f"at most {MAX_LOGIT_BIAS} entries")
            for token, bias in self.logit_bias.items():
                if not isinstance(token, int) or token < 0 or not isinstance(bias, int | float) or not abs(bias) <= 100:
                    raise _bad("logit_bias", {token: bias}, "token ids with a bias from -100 to 100")

    @property
    def greedy(self) -> bool:
        return self.temperature < 1e-5 or self.top_k == 1 or self.use_beam_search


class Constraint(Protocol):
    """What one answer may continue with (structured output). The engine holds one an answer and copies it on a fork."""

    def mask(self) -> U32:
        """[ceil(vocab / 32)] bits of the tokens that may come next; end tokens where the answer may end."""

    def accept(self, token: int) -> None:
        """``token``, one of those allowed, was drawn. Raises ``ExecutionError`` if it cannot be taken."""

    def copy(self) -> Constraint:
        """An independent constraint in the same state."""


@dataclass(slots=True)
class SamplingBatch:
    """One entry per token wanted of a step (N entries; several may read one row, as ``n`` answers of one prompt do).

    ``target`` -1 draws a token; otherwise that token is scored (prompt logprobs). ``seed``/``draw``: the random number
    is a function of both alone. History, bias and mask are flat lists indexed by ``*_start`` [N+1]; histories hold each
    distinct token once: ``history_counts`` how often it was put out, ``history_prompt`` whether the prompt has it.
    ``masks`` are bit masks over the vocabulary (bit set: allowed), ``mask_row`` -1 where an entry has none.
    """

    row: I32
    target: I32
    temperature: F32
    top_k: I32
    top_p: F32
    min_p: F32
    repetition: F32
    presence: F32
    frequency: F32
    seed: U64
    draw: I64
    num_logprobs: I32
    history_start: I32
    history_ids: I32
    history_counts: I32
    history_prompt: U8
    bias_start: I32
    bias_ids: I32
    bias_values: F32
    mask_row: I32
    masks: U32


@dataclass(slots=True)
class Batch:
    """One step for an executor. T tokens of S sequences, flattened in sequence order.

        tokens      |<---- seq 0 ---->|<-- seq 1 -->| ...      query_start = [0, q0, q0+q1, ...]
        cache       seq s holds context_lens[s] rows, this step's rows included (they are the last ones);
                    its row j lies in block block_tables[s, j // block_size] at j % block_size

    ``token_ids`` [T]; ``positions`` [channels, T] feed position embeddings and are not cache rows (prefixes,
    ChatGLM-6B); ``slots`` [T] = block * block_size + offset, where to store each token's key and value;
    ``prompt_lens`` [S] for length-dependent rotary scaling; ``bidirectional`` [S] cache rows before this boundary are
    seen by all of them (0: causal); ``adapters`` [S] adapter slot, 0 none; ``logits_rows`` [R] tokens whose logits are
    wanted; ``block_copies`` [C, 2] (from, to) copied before the step, in order (copy-on-write forks); ``embeds`` [T, H]
    takes the place of what the token ids would be embedded as (prompt tuning).
    """

    token_ids: I32
    positions: I32
    slots: I64
    query_start: I32
    context_lens: I32
    block_tables: I32
    prompt_lens: I32
    logits_rows: I32
    sampling: SamplingBatch | None = None
    bidirectional: I32 | None = None
    adapters: I32 | None = None
    block_copies: I32 | None = None
    embeds: F32 | None = None
    return_logits: bool = False
    return_hidden: bool = False

    @property
    def num_tokens(self) -> int:
        return int(self.token_ids.shape[0])

    @property
    def num_seqs(self) -> int:
        return int(self.context_lens.shape[0])


@dataclass(slots=True)
class StepOutput:
    """What a step gives: N sampled (or scored) entries, in the order of ``Batch.sampling``.

    ``logprobs`` [N], ``ranks`` [N] (1 is the most likely), ``top_ids``/``top_logprobs`` [N, K] with K the largest
    ``num_logprobs`` asked (unused places -1 / -inf), all of the raw distribution; None where no entry asked.
    ``invalid`` [N] is 1 where the row's logits are not finite. ``logits`` [R, V] and ``hidden`` [T, H] on demand.
    """

    token_ids: I32
    invalid: U8
    logprobs: F32 | None = None
    ranks: I32 | None = None
    top_ids: I32 | None = None
    top_logprobs: F32 | None = None
    logits: F32 | None = None
    hidden: F32 | None = None


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
    """A request's answers so far; attribute names as vLLM's. ``pooled`` [H]: the prompt's vector, if that was asked."""

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
