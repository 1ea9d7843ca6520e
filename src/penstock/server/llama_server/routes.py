"""``/completion`` and what llama.cpp's clients ask around it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import msgspec

from penstock._version import __version__
from penstock.errors import RequestError
from penstock.server.answers import Answers
from penstock.server.body import parse, read
from penstock.server.embeddings import Wish, embed
from penstock.server.errors import HttpError, Problem
from penstock.server.http import Call, Dialect, Endpoint, Reply, Stream, reply
from penstock.server.llama_cpp import HARMLESS
from penstock.server.llama_server.schema import REFUSED, CompletionRequest
from penstock.server.openai.adapt import finite
from penstock.server.openai.completions import prompt_items
from penstock.server.prompts import encode_prompts, render_chat
from penstock.server.sse import event
from penstock.server.state import Served
from penstock.server.structured import from_llama_server
from penstock.types import CompletionOutput, RequestMetrics, RequestOutput, RequestOutputKind, SamplingParams

SAME = (
    "temperature", "top_k", "top_p", "min_p", "typical_p", "presence_penalty", "frequency_penalty", "stop",
    "ignore_eos",
)  # fmt: skip
TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    503: "unavailable_error",
}  # fmt: skip
KINDS = {"context_length_exceeded": "exceed_context_size_error", "not_available": "not_supported_error"}


async def completion(call: Call) -> Reply | Stream:
    request = read(parse(call.body), CompletionRequest, HARMLESS, REFUSED)
    served = call.state.find(request.model)
    params = _params(call, served, request)
    items = prompt_items(await _joined(served, request.prompt))
    prompts = await encode_prompts(served.llm, items)
    if len(prompts) > 1 and request.stream:
        raise RequestError("several prompts cannot be streamed: leave out stream", "prompt")
    answers = await Answers.submit(served, prompts, params, within_context=True)
    if request.stream:
        return Stream(_events(request, served, answers, params), lambda p: event(error(p)[1]), answers.close)
    outputs = await answers.finals()
    found = [_final(request, served, params, o, o.outputs[0].text, list(o.outputs[0].token_ids)) for o in outputs]
    for body, output in zip(found, outputs):
        if request.n_probs:
            body["completion_probabilities"] = _probabilities(served, output.outputs[0], request.n_probs)
    return reply(found[0] if len(found) == 1 else found)


async def _joined(served: Served, prompt: Any) -> Any:
    """A mixture of texts and token ids is one prompt."""
    kinds = {type(part) for part in prompt} if isinstance(prompt, list) else set()
    if kinds != {int, str}:
        return prompt
    pieces = await encode_prompts(
        served.llm, [part for part in prompt if isinstance(part, str)], add_special_tokens=False
    )
    texts = iter(pieces)
    return [t for part in prompt for t in ([part] if isinstance(part, int) else next(texts).token_ids)]


def _params(call: Call, served: Served, request: CompletionRequest) -> SamplingParams:
    values: dict[str, Any] = {k: v for k in SAME if (v := getattr(request, k)) is not None}
    if request.repeat_penalty is not None:
        values["repetition_penalty"] = request.repeat_penalty
    if request.n_predict is not None and request.n_predict >= 0:
        values["max_tokens"] = max(1, request.n_predict)  # none: the prompt is computed, and kept
    elif request.n_predict is not None and request.n_predict < -1:
        raise RequestError("n_predict must be a number of tokens, or -1 for no limit", "n_predict")
    if request.seed is not None and request.seed != -1:
        values["seed"] = request.seed
    bias = request.logit_bias
    if bias:
        pairs = bias.items() if isinstance(bias, dict) else bias
        try:
            values["logit_bias"] = {int(t): -100.0 if b is False else float(b) for t, b in pairs}
        except ValueError:
            raise RequestError("logit_bias must be pairs of a token id and a number", "logit_bias") from None
    if request.n_probs:
        values["logprobs"] = request.n_probs
    values["structured_outputs"] = from_llama_server(request.grammar, request.json_schema)
    kind = RequestOutputKind.DELTA if request.stream else RequestOutputKind.FINAL_ONLY
    return replace(call.state.default_params(served), output_kind=kind, **values)


async def _events(
    request: CompletionRequest, served: Served, answers: Answers, params: SamplingParams
) -> AsyncIterator[bytes]:
    tokens: list[int] = []
    text = ""
    out: list[bytes] = []
    async for _, output in answers.outputs():
        answer = output.outputs[0]
        tokens += answer.token_ids
        text += answer.text
        if (answer.text or answer.token_ids) and request.n_predict != 0:
            body = {
                "index": 0, "content": answer.text, "tokens": list(answer.token_ids), "stop": False, "id_slot": 0,
                "tokens_predicted": len(tokens), "tokens_evaluated": len(output.prompt_token_ids),
            }  # fmt: skip
            if request.n_probs:
                body["completion_probabilities"] = _probabilities(served, answer, request.n_probs)
            out.append(event(body))
        if answer.finish_reason is not None:
            out.append(event(_final(request, served, params, output, text, tokens) | {"content": ""}))
        if out and not answers.more:
            yield b"".join(out)
            out = []


def _final(
    request: CompletionRequest,
    served: Served,
    params: SamplingParams,
    output: RequestOutput,
    text: str,
    tokens: list[int],
) -> dict[str, Any]:
    answer = output.outputs[0]
    if request.n_predict == 0:
        text, tokens = "", []
    kind = "limit" if answer.finish_reason == "length" else "word" if isinstance(answer.stop_reason, str) else "eos"
    return {
        "index": 0,
        "content": text,
        "tokens": tokens if request.return_tokens else [],
        "id_slot": 0,
        "stop": True,
        "model": served.name,
        "tokens_predicted": len(tokens),
        "tokens_evaluated": len(output.prompt_token_ids),
        "tokens_cached": len(output.prompt_token_ids) + len(tokens),
        "generation_settings": {
            "temperature": params.temperature,
            "top_k": params.top_k,
            "top_p": params.top_p,
            "min_p": params.min_p,
            "typical_p": params.typical_p,
            "seed": params.seed,
        },
        "prompt": output.prompt or "",
        "has_new_line": "\n" in text,
        "truncated": kind == "limit" and len(tokens) < (params.max_tokens or len(tokens) + 1),
        "stop_type": kind,
        "stopping_word": answer.stop_reason if kind == "word" else "",
        "timings": _timings(output.metrics, len(output.prompt_token_ids), output.num_cached_tokens, len(tokens)),
    }


def _timings(times: RequestMetrics | None, prompt: int, cached: int, made: int) -> dict[str, Any]:
    prefill = ((times.prefill if times else None) or 0.0) * 1e3
    decode = sum(times.inter_token_latencies) * 1e3 if times else 0.0
    computed = prompt - cached
    return {
        "cache_n": cached,
        "prompt_n": computed,
        "prompt_ms": prefill,
        "prompt_per_token_ms": prefill / max(1, computed),
        "prompt_per_second": computed / prefill * 1e3 if prefill else 0.0,
        "predicted_n": made,
        "predicted_ms": decode,
        "predicted_per_token_ms": decode / max(1, made - 1),
        "predicted_per_second": (made - 1) / decode * 1e3 if decode else 0.0,
    }


def _probabilities(served: Served, answer: CompletionOutput, count: int) -> list[dict[str, Any]]:
    tokenizer = served.llm.model.tokenizer

    def entry(token: int, logprob: float) -> dict[str, Any]:
        data = b"" if tokenizer is None else tokenizer.token_bytes(token)
        return {"id": token, "token": data.decode("utf-8", "replace"), "bytes": list(data), "logprob": finite(logprob)}

    return [
        {
            **entry(token, scores[token].logprob),
            "top_logprobs": [entry(t, s.logprob) for t, s in list(scores.items())[:count]],
        }
        for token, scores in zip(answer.token_ids, answer.logprobs or ())
    ]


async def props(call: Call) -> Reply:
    served = call.state.find(None)
    model = served.llm.model
    tokenizer = model.tokenizer
    return reply({
        "default_generation_settings": {"n_ctx": model.max_model_len, "params": {"temperature": 1.0}},
        "total_slots": model.config.scheduler.max_num_seqs,
        "model_alias": served.name,
        "model_path": served.name,
        "chat_template": (tokenizer.chat_template or "") if tokenizer is not None else "",
        "bos_token": tokenizer.special_tokens.get("bos_token", "") if tokenizer is not None else "",
        "eos_token": tokenizer.special_tokens.get("eos_token", "") if tokenizer is not None else "",
        "modalities": {"vision": False, "audio": False},
        "build_info": f"penstock {__version__}",
    })  # fmt: skip


async def slots(call: Call) -> Reply:
    """One entry for each sequence that can run at once."""
    served = call.state.find(None)
    model = served.llm.model
    busy = model.engine.stats.running
    count = model.config.scheduler.max_num_seqs
    return reply([{"id": i, "n_ctx": model.max_model_len, "is_processing": i < busy} for i in range(count)])


class ApplyTemplateRequest(msgspec.Struct, kw_only=True):
    messages: list[dict[str, Any]]
    model: str | None = None
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None


async def apply_template(call: Call) -> Reply:
    request = read(parse(call.body), ApplyTemplateRequest)
    prompt = await render_chat(
        call.state.find(request.model).llm,
        request.messages,
        tools=request.tools,
        kwargs=request.chat_template_kwargs,
        add_generation_prompt=request.add_generation_prompt is not False,
    )
    return reply({"prompt": prompt.text})


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    content: str | list[str | int | list[int]] | None = None
    input: str | list[str | int | list[int]] | None = None
    model: str | None = None
    embd_normalize: int | None = None


async def embedding(call: Call) -> Reply:
    """llama-server's form: ``content`` to a list of ``{index, embedding}``."""
    request = read(parse(call.body), EmbeddingRequest, ("encoding_format",))
    if request.embd_normalize not in (None, -1, 2):
        raise RequestError("embd_normalize can be 2 (length 1) or -1 (as it is)", "embd_normalize")
    served = call.state.find(request.model)
    items = prompt_items(request.content if request.content is not None else request.input)
    vectors, _ = await embed(call.state, served, items, Wish(normalize=request.embd_normalize != -1))
    return reply([{"index": i, "embedding": [vector.tolist()]} for i, vector in enumerate(vectors)])


async def infill(call: Call) -> Reply:
    raise HttpError(400, "not_available", "these models are not trained to fill text in: use /completion")


def error(problem: Problem) -> tuple[int, dict[str, Any]]:
    kind = TYPES.get(problem.status, "server_error" if problem.status >= 500 else "invalid_request_error")
    kind = KINDS.get(problem.kind, kind)
    return problem.status, {"error": {"code": problem.status, "message": problem.message, "type": kind}}


def dialect() -> Dialect:
    endpoints = (
        Endpoint("POST", "/completion", completion, body=CompletionRequest),
        Endpoint("POST", "/completions", completion, body=CompletionRequest),
        Endpoint("POST", "/embedding", embedding, body=EmbeddingRequest),
        Endpoint("POST", "/embeddings", embedding, body=EmbeddingRequest),
        Endpoint("GET", "/props", props),
        Endpoint("GET", "/slots", slots),
        Endpoint("POST", "/apply-template", apply_template, body=ApplyTemplateRequest),
        Endpoint("POST", "/infill", infill),
    )
    return Dialect(
        "llama_server",
        endpoints,
        error,
        ("/completion", "/embedding", "/props", "/slots", "/apply-template", "/infill"),
    )
