"""TGI's parameters to sampling parameters, and outputs to its details."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from penstock.errors import RequestError
from penstock.server.openai.adapt import finite
from penstock.server.prompts import Truncation
from penstock.server.structured import from_tgi
from penstock.server.tgi.schema import DEFAULT_NEW_TOKENS, Parameters
from penstock.types import CompletionOutput, RequestOutput, RequestOutputKind, SamplingParams, TokenLogprobs

if TYPE_CHECKING:
    from penstock.text.tokenizer import Tokenizer

MAX_TOP_TOKENS = 20
FINISH = {"length": "length", "stop": "eos_token", "abort": "length", "error": "length", "repetition": "length"}


def sampling_params(given: Parameters, stream: bool) -> SamplingParams:
    """Greedy unless something asks for sampling, as TGI does. Raises ``RequestError`` naming a field out of range."""
    _check(given, stream)
    sampling = is_sampling(given)
    beams: dict[str, Any] = {}
    if (given.num_beams or 1) > 1:
        beams = {"use_beam_search": True, "best_of": given.num_beams, "length_penalty": given.length_penalty or 1.0}
    scored = given.details or given.decoder_input_details or stream or (given.best_of or 1) > 1
    limit = DEFAULT_NEW_TOKENS if given.max_new_tokens is UNSET else given.max_new_tokens
    return SamplingParams(
        n=given.best_of or 1,
        max_tokens=limit,
        temperature=(1.0 if given.temperature is None else given.temperature) if sampling else 0.0,
        top_k=given.top_k or 0,
        top_p=given.top_p or 1.0,
        typical_p=given.typical_p or 1.0,
        repetition_penalty=1.0 if given.repetition_penalty is None else given.repetition_penalty,
        frequency_penalty=given.frequency_penalty or 0.0,
        watermark=bool(given.watermark),
        # A seed of our own where none is given, so that details can name it.
        seed=secrets.randbits(63) if given.seed is None else given.seed,
        stop=tuple(given.stop or ()),
        include_stop_str_in_output=True,
        logprobs=(given.top_n_tokens or 0) if scored else None,
        prompt_logprobs=0 if given.decoder_input_details else None,
        structured_outputs=from_tgi(given.grammar),
        output_kind=RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY,
        **beams,
    )


def is_sampling(given: Parameters) -> bool:
    return bool(
        given.do_sample or given.temperature not in (None, 1.0) or given.top_k or given.top_p or given.typical_p
    )


def _check(given: Parameters, stream: bool) -> None:
    best_of = given.best_of or 1
    if best_of > 1 and not (is_sampling(given) or given.temperature is not None):
        raise RequestError("best_of > 1 needs sampling: set do_sample or temperature", "best_of")
    if best_of > 1 and given.seed is not None:
        raise RequestError("best_of > 1 and seed exclude each other", "best_of")
    if best_of > 1 and stream:
        raise RequestError("best_of > 1 cannot be streamed", "best_of")
    if (given.num_beams or 1) > 1 and (best_of > 1 or is_sampling(given)):
        raise RequestError("num_beams > 1 draws nothing: leave out sampling and best_of, or num_beams", "num_beams")
    if given.length_penalty is not None and (given.num_beams or 1) < 2:
        raise RequestError("length_penalty belongs to beam search: give num_beams, or leave it out", "length_penalty")
    if given.decoder_input_details and stream:
        raise RequestError("decoder_input_details cannot be streamed", "decoder_input_details")
    if given.temperature is not None and given.temperature <= 0:
        raise RequestError(f"temperature must be above 0, got {given.temperature}", "temperature")
    for name in ("top_p", "typical_p"):
        share = getattr(given, name)
        if share is not None and not 0 < share < 1:
            raise RequestError(f"{name} must be above 0 and below 1, got {share}: leave it out to keep all", name)
    if given.frequency_penalty is not None and not -2 <= given.frequency_penalty <= 2:
        raise RequestError(
            f"frequency_penalty must be from -2 to 2, got {given.frequency_penalty}", "frequency_penalty"
        )
    if given.best_of is not None and given.best_of < 1:
        raise RequestError(f"best_of must be above 0, got {given.best_of}", "best_of")
    if given.top_k is not None and given.top_k <= 0:
        raise RequestError(f"top_k must be above 0, got {given.top_k}", "top_k")
    if given.top_n_tokens is not None and not 0 <= given.top_n_tokens <= MAX_TOP_TOKENS:
        raise RequestError(f"top_n_tokens must be from 0 to {MAX_TOP_TOKENS}", "top_n_tokens")


def truncation(given: Parameters, max_model_len: int) -> Truncation | None:
    if given.truncate is None:
        return None
    if not 0 < given.truncate < max_model_len:
        raise RequestError(f"truncate must be from 1 to {max_model_len - 1}, got {given.truncate}", "truncate")
    return Truncation(given.truncate)


def token(tokenizer: Tokenizer | None, token_id: int, logprob: float | None, text: str | None = None) -> dict[str, Any]:
    special = tokenizer is not None and token_id in tokenizer.special_ids
    if text is None or special:
        text = "" if tokenizer is None else tokenizer.token_text(token_id)
    return {"id": token_id, "text": text, "logprob": None if logprob is None else finite(logprob), "special": special}


def tokens(tokenizer: Tokenizer | None, answer: CompletionOutput) -> list[dict[str, Any]]:
    return [token(tokenizer, t, s[t].logprob) for t, s in zip(answer.token_ids, answer.logprobs or ())]


def top_tokens(tokenizer: Tokenizer | None, scores: TokenLogprobs, count: int) -> list[dict[str, Any]]:
    return [token(tokenizer, t, s.logprob) for t, s in list(scores.items())[:count]]


def finish_reason(answer: CompletionOutput) -> str:
    if answer.finish_reason == "stop" and isinstance(answer.stop_reason, str):
        return "stop_sequence"
    return FINISH[answer.finish_reason or "length"]


def prefill(tokenizer: Tokenizer | None, output: RequestOutput) -> list[dict[str, Any]]:
    found = []
    for t, score in zip(output.prompt_token_ids, output.prompt_logprobs or ()):
        entry = token(tokenizer, t, None if score is None else score[t].logprob)
        found.append({k: entry[k] for k in ("id", "text", "logprob")})
    return found


def best_first(answers: Sequence[CompletionOutput]) -> list[CompletionOutput]:
    """By mean log probability, as TGI ranks them."""
    return sorted(answers, key=lambda a: -(a.cumulative_logprob or 0.0) / max(1, len(a.token_ids)))


def details(
    given: Parameters, params: SamplingParams, tokenizer: Tokenizer | None, output: RequestOutput
) -> dict[str, Any]:
    first, *others = best_first(output.outputs)
    count = given.top_n_tokens or 0

    def one(answer: CompletionOutput) -> dict[str, Any]:
        return {
            "finish_reason": finish_reason(answer),
            "generated_tokens": len(answer.token_ids),
            "seed": params.seed if is_sampling(given) else None,
            "prefill": prefill(tokenizer, output),
            "tokens": tokens(tokenizer, answer),
            "top_tokens": [top_tokens(tokenizer, s, count) for s in answer.logprobs or ()] if count else [],
        }

    found = one(first)
    if others:
        found["best_of_sequences"] = [{"generated_text": a.text, **one(a)} for a in others]
    return found
