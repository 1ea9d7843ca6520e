"""Requests to sampling parameters, and outputs to the parts that completions and chats share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from penstock.errors import RequestError
from penstock.sampling_defaults import NO_DRAWS
from penstock.server.answers import Usage
from penstock.server.openai.schema import Generation
from penstock.server.prompts import Truncation
from penstock.server.structured import from_llama_server, from_response_format, from_structured_outputs
from penstock.types import Logprob, RequestMetrics, RequestOutputKind, SamplingParams, StructuredOutputs, TokenLogprobs

if TYPE_CHECKING:
    from penstock.text.tokenizer import Tokenizer

SAME_NAME = (
    "n", "best_of", "max_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p", "typical_p",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "seed", "stop_token_ids",
    "include_stop_str_in_output", "ignore_eos", "allowed_token_ids", "skip_special_tokens",
    "spaces_between_special_tokens",
    "prompt_logprobs", "use_beam_search", "length_penalty", "early_stopping", "bad_words",
    "repetition_detection", "watermark",
)  # fmt: skip
GUIDED = (
    "guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_json_object", "guided_whitespace_pattern",
)  # fmt: skip
"""What ``structured_outputs`` was once called."""
MAX_SALT = 1024
MAX_TOP_LOGPROBS = 20
LOWEST = -9999.0
"""What stands for a probability of zero: JSON has no infinity."""


def sampling_params(request: Generation, default: SamplingParams, **more: Any) -> SamplingParams:
    """The request over ``default``; ``more`` over both. Raises ``RequestError`` naming a field out of range."""
    given = {k: v for k in SAME_NAME if (v := getattr(request, k, None)) is not None}
    if request.use_beam_search:
        default = replace(default, **NO_DRAWS)
    if request.repeat_penalty is not None:
        if request.repetition_penalty not in (None, request.repeat_penalty):
            raise RequestError("repeat_penalty and repetition_penalty disagree: give one", "repeat_penalty")
        given["repetition_penalty"] = request.repeat_penalty
    for name in ("presence_penalty", "frequency_penalty"):
        if not -2 <= given.get(name, 0) <= 2:
            raise RequestError(f"{name} must be from -2 to 2, got {given[name]:g}", name)
    if request.stop is not None:
        given["stop"] = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop)
        if request.stop == "":
            given["stop"] = ()
    if request.logprob_token_ids:
        if more.get("logprobs") is None:
            raise RequestError("logprob_token_ids needs logprobs", "logprob_token_ids")
        more = {**more, "logprobs": 0, "logprob_token_ids": tuple(request.logprob_token_ids)}
    if request.logit_bias:
        given["logit_bias"] = _bias(request.logit_bias)
    kind = RequestOutputKind.DELTA if request.stream else RequestOutputKind.FINAL_ONLY
    return replace(default, **{**given, "output_kind": kind, **more})


def _bias(given: Mapping[str, float]) -> dict[int, float]:
    found = {}
    for token, bias in given.items():
        if not token.isascii() or not token.isdigit() or len(token) > 9:
            raise RequestError(f"logit_bias: '{token[:32]}' is no token id", "logit_bias")
        found[int(token)] = bias
    return found


def engine_options(request: Generation) -> dict[str, Any]:
    """What goes to the engine beside the sampling parameters."""
    options: dict[str, Any] = {}
    if request.priority is not None:
        if not -(1 << 31) <= request.priority < 1 << 31:
            raise RequestError("priority must be an integer of 32 bits", "priority")
        options["priority"] = request.priority
    if request.cache_salt is not None:
        if not 0 < len(request.cache_salt) <= MAX_SALT:
            raise RequestError(f"cache_salt must have 1 to {MAX_SALT} characters", "cache_salt")
        options["cache_salt"] = request.cache_salt
    return options


def grammar(request: Generation) -> StructuredOutputs | None:
    """What the answer must be, by ``response_format``, ``structured_outputs``, or llama-server's fields."""
    guided = {name.removeprefix("guided_"): getattr(request, name) for name in GUIDED}
    found = [
        from_response_format(request.response_format),
        from_structured_outputs(request.structured_outputs, guided),
        from_llama_server(request.grammar, request.json_schema),
    ]
    asked = [each for each in found if each is not None]
    if len(asked) > 1:
        raise RequestError(f"give {asked[0].param} or {asked[1].param}, not both", asked[1].param)
    return asked[0] if asked else None


def truncation(request: Generation, max_model_len: int) -> Truncation | None:
    """vLLM's ``truncate_prompt_tokens``; -1 is as many as leave room for the answer."""
    tokens = request.truncate_prompt_tokens
    if tokens is None:
        return None
    if tokens == -1:
        tokens = max(1, max_model_len - (request.max_tokens or 1))
    if not 1 <= tokens <= max_model_len:
        raise RequestError(
            f"truncate_prompt_tokens must be from 1 to {max_model_len}, or -1, got {tokens}", "truncate_prompt_tokens"
        )
    return Truncation(tokens, request.truncation_side or "left")


def answer_id(prefix: str, request: Generation, request_id: str) -> str:
    """``prefix-…`` with the request's own id, or the one of the HTTP request."""
    given = request.request_id
    if given is None:
        return f"{prefix}-{request_id}"
    if not 0 < len(given) <= 128 or not given.isprintable():
        raise RequestError("request_id must have 1 to 128 printable characters", "request_id")
    return f"{prefix}-{given}"


def usage(count: Usage) -> dict[str, Any]:
    found: dict[str, Any] = {
        "prompt_tokens": count.prompt,
        "completion_tokens": count.completion,
        "total_tokens": count.prompt + count.completion,
        "prompt_tokens_details": {"cached_tokens": count.cached},
    }
    if count.reasoning is not None:
        found["completion_tokens_details"] = {"reasoning_tokens": count.reasoning}
    return found


def timings(times: RequestMetrics | None) -> dict[str, Any] | None:
    """When things happened to a request, in seconds."""
    if times is None:
        return None
    gaps = sorted(times.inter_token_latencies)

    def quantile(share: float) -> float | None:
        return gaps[min(len(gaps) - 1, int(share * len(gaps)))] if gaps else None

    return {
        "queue_time": times.queued,
        "prefill_time": times.prefill,
        "time_to_first_token": times.ttft,
        "inter_token_latency_p50": quantile(0.5),
        "inter_token_latency_p99": quantile(0.99),
        "cached_tokens": times.cached_tokens,
        "preemptions": times.preemptions,
    }


def finite(logprob: float) -> float:
    return max(logprob, LOWEST)


def top_logprobs(given: int | None) -> int:
    """How many of the likeliest tokens are wanted at each place."""
    if given is not None and not 0 <= given <= MAX_TOP_LOGPROBS:
        raise RequestError(f"top_logprobs must be from 0 to {MAX_TOP_LOGPROBS}, got {given}", "top_logprobs")
    return given or 0


def token_name(token: int, entry: Logprob, as_ids: bool) -> str:
    return f"token_id:{token}" if as_ids or entry.decoded_token is None else entry.decoded_token


def chat_logprobs(
    tokens: Sequence[int],
    scores: Sequence[TokenLogprobs],
    top: int | None,
    tokenizer: Tokenizer | None,
    as_ids: bool,
) -> dict[str, Any]:
    """``top`` None: all that there are. ``{"content": [{token, bytes, logprob, top_logprobs}], "refusal": null}``."""

    def entry(token: int, score: Logprob) -> dict[str, Any]:
        data = None if tokenizer is None else list(tokenizer.token_bytes(token))
        return {"token": token_name(token, score, as_ids), "bytes": data, "logprob": finite(score.logprob)}

    content = []
    for token, found in zip(tokens, scores):
        best = [entry(t, s) for t, s in list(found.items())[:top]]
        content.append({**entry(token, found[token]), "top_logprobs": best})
    return {"content": content, "refusal": None}


def completion_logprobs(
    tokens: Sequence[int],
    scores: Sequence[TokenLogprobs | None],
    offsets: Sequence[int],
    tokenizer: Tokenizer | None,
    as_ids: bool,
) -> dict[str, Any]:
    """``{tokens, token_logprobs, top_logprobs, text_offset}``; a score of ``None`` is a prompt's first token.

    ``offsets``: characters of text before each token.
    """
    found: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token, score, offset in zip(tokens, scores, offsets):
        name = f"token_id:{token}" if as_ids or tokenizer is None else tokenizer.token_text(token)
        best: dict[str, float] = {}
        for other, entry in (score or {}).items():
            best.setdefault(token_name(other, entry, as_ids), finite(entry.logprob))
        found["tokens"].append(name)
        found["token_logprobs"].append(None if score is None else finite(score[token].logprob))
        found["top_logprobs"].append(None if score is None else best)
        found["text_offset"].append(offset)
    return found


def prompt_logprobs(scores: Sequence[TokenLogprobs | None] | None) -> list[dict[str, Any] | None] | None:
    """vLLM's form: per prompt token, token id → {logprob, rank, decoded_token}."""
    if scores is None:
        return None
    return [
        None
        if found is None
        else {
            str(t): {"logprob": finite(s.logprob), "rank": s.rank, "decoded_token": s.decoded_token}
            for t, s in found.items()
        }
        for found in scores
    ]
