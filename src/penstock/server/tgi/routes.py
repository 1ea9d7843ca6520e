"""TGI's routes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from penstock._version import __version__
from penstock.errors import RequestError, nearest
from penstock.server.answers import Answers
from penstock.server.body import parse, read
from penstock.server.http import Call, Dialect, Endpoint, Reply, Stream, encode, reply
from penstock.server.prompts import MAX_PROMPTS, encode_prompts, render_chat
from penstock.server.state import Served
from penstock.server.tgi import adapt
from penstock.server.tgi.errors import error
from penstock.server.tgi.schema import (
    HARMLESS,
    HARMLESS_PARAMETERS,
    REFUSED,
    ChatTokenizeRequest,
    GenerateRequest,
    Parameters,
    VertexRequest,
)
from penstock.types import RequestMetrics, SamplingParams

COMPUTE = "cpu"


async def generate(call: Call) -> Reply | Stream:
    return await _generate(call, parse(call.body), stream=False)


async def generate_stream(call: Call) -> Reply | Stream:
    return await _generate(call, parse(call.body), stream=True)


async def compat(call: Call, fields: dict[str, Any] | None = None) -> Reply | Stream:
    """``POST /``: a list, or a stream where asked."""
    fields = parse(call.body) if fields is None else fields
    return await _generate(call, fields, stream=bool(fields.get("stream")), as_list=True)


async def _generate(call: Call, fields: dict[str, Any], *, stream: bool, as_list: bool = False) -> Reply | Stream:
    began = time.monotonic()
    request = read(fields, GenerateRequest, HARMLESS)
    given = read(request.parameters or {}, Parameters, HARMLESS_PARAMETERS, REFUSED)
    served = _served(call, request, given)
    params = adapt.sampling_params(given, stream)
    truncation = adapt.truncation(given, served.llm.model.max_model_len)
    prompts = await encode_prompts(served.llm, [request.inputs], truncation=truncation)
    answers = await Answers.submit(served, prompts, params)
    if stream:
        pieces = _events(given, params, served, answers, request.inputs)
        headers = {"x-compute-type": COMPUTE, "x-compute-characters": str(len(request.inputs))}
        return Stream(pieces, lambda p: _event(error(p)[1]), answers.close, headers=headers)
    validated = time.monotonic() - began
    (output,) = await answers.finals()
    best = adapt.best_first(output.outputs)[0]
    text = request.inputs + best.text if given.return_full_text else best.text
    body: dict[str, Any] = {"generated_text": text}
    if given.details or given.decoder_input_details:
        body["details"] = adapt.details(given, params, served.llm.model.tokenizer, output)
    headers = _headers(request.inputs, answers, output.metrics, validated, time.monotonic() - began)
    return reply([body] if as_list else body, headers=headers)


async def vertex(call: Call) -> Reply:
    """Google's envelope: the text that is generated for each instance."""
    request = read(parse(call.body), VertexRequest, HARMLESS)
    if not 0 < len(request.instances) <= MAX_PROMPTS:
        raise RequestError(f"instances must be a list of 1 to {MAX_PROMPTS}", "instances")
    predictions = []
    for instance in request.instances:
        answer = await _generate(call, instance, stream=False)
        assert isinstance(answer, Reply)
        predictions.append(parse(answer.body)["generated_text"])
    return reply({"predictions": predictions})


def _served(call: Call, request: GenerateRequest, given: Parameters) -> Served:
    served = call.state.find(request.model)
    if not given.adapter_id:
        return served
    names = served.llm.model.adapters.names()
    if given.adapter_id not in names:
        said = f"adapter_id: no adapter '{given.adapter_id[:128]}' is loaded{nearest(given.adapter_id[:128], names)}"
        raise RequestError(said, "adapter_id")
    return replace(served, name=given.adapter_id, adapter=given.adapter_id)


async def _events(
    given: Parameters, params: SamplingParams, served: Served, answers: Answers, inputs: str
) -> AsyncIterator[bytes]:
    tokenizer, count = served.llm.model.tokenizer, given.top_n_tokens or 0
    text, index = "", 0
    out: list[bytes] = []
    async for _, output in answers.outputs():
        (answer,) = output.outputs
        text += answer.text
        for i, (token, scores) in enumerate(zip(answer.token_ids, answer.logprobs or ())):
            index += 1
            last = i == len(answer.token_ids) - 1
            done = last and answer.finish_reason is not None
            event: dict[str, Any] = {
                "index": index,
                "token": adapt.token(tokenizer, token, scores[token].logprob, answer.text if last else ""),
                "generated_text": (inputs + text if given.return_full_text else text) if done else None,
                "details": None,
            }
            if count:
                event["top_tokens"] = adapt.top_tokens(tokenizer, scores, count)
            if done:
                event["details"] = {
                    "finish_reason": adapt.finish_reason(answer),
                    "generated_tokens": index,
                    "seed": params.seed if adapt.is_sampling(given) else None,
                    "input_length": len(output.prompt_token_ids),
                }
            out.append(_event(event))
        if out and not answers.more:
            yield b"".join(out)
            out = []


def _event(value: Any) -> bytes:
    return b"data:" + encode(value) + b"\n\n"


def _headers(
    inputs: str, answers: Answers, times: RequestMetrics | None, validated: float, total: float
) -> dict[str, str]:
    queued = (times.queued if times else None) or 0.0
    computed = max(0.0, total - validated - queued)
    made = answers.usage.completion

    def ms(seconds: float) -> str:
        return str(round(seconds * 1e3))

    return {
        "x-compute-type": COMPUTE,
        "x-compute-time": f"{total:.6f}",
        "x-compute-characters": str(len(inputs)),
        "x-total-time": ms(total),
        "x-validation-time": ms(validated),
        "x-queue-time": ms(queued),
        "x-inference-time": ms(computed),
        "x-time-per-token": ms(computed / max(1, made)),
        "x-prompt-tokens": str(answers.usage.prompt),
        "x-generated-tokens": str(made),
    }


async def info(call: Call) -> Reply:
    served = call.state.find(None)
    model = served.llm.model
    scheduler = model.config.scheduler
    return reply({
        "model_id": served.name,
        "model_sha": model.config.model.revision,
        "model_pipeline_tag": "text-generation",
        "model_dtype": model.executor.info.compute,
        "model_device_type": "cpu",
        "max_concurrent_requests": call.state.options.max_requests,
        "max_best_of": scheduler.max_num_seqs,
        "max_stop_sequences": 64,
        "max_input_tokens": model.max_model_len - 1,
        "max_input_length": model.max_model_len - 1,
        "max_total_tokens": model.max_model_len,
        "max_batch_total_tokens": model.executor.limits.num_blocks * model.executor.limits.block_size,
        "max_client_batch_size": 1,
        "validation_workers": 1,
        "router": "penstock",
        "version": __version__,
        "sha": None,
        "docker_label": None,
    })  # fmt: skip


async def chat_tokenize(call: Call) -> Reply:
    request = read(parse(call.body), ChatTokenizeRequest, lax=True)
    served = call.state.find(request.model)
    prompt = await render_chat(served.llm, request.messages, tools=request.tools)
    return reply({"tokenize_response": spans(served, prompt.token_ids), "templated_text": prompt.text})


def spans(served: Served, ids: list[int]) -> list[dict[str, Any]]:
    """TGI's ``/tokenize``: each token with where its text lies."""
    tokenizer = served.llm.frontend.require_tokenizer("this")
    found, at = [], 0
    for token in ids:
        text = tokenizer.token_text(token)
        found.append({"id": token, "text": text, "start": at, "stop": at + len(text)})
        at += len(text)
    return found


def dialect() -> Dialect:
    endpoints = (
        Endpoint("POST", "/generate", generate, body=GenerateRequest),
        Endpoint("POST", "/generate_stream", generate_stream, body=GenerateRequest),
        Endpoint("POST", "/invocations", compat, body=GenerateRequest),
        Endpoint("POST", "/vertex", vertex, body=VertexRequest),
        Endpoint("GET", "/info", info),
        Endpoint("POST", "/chat_tokenize", chat_tokenize, body=ChatTokenizeRequest),
    )
    return Dialect("tgi", endpoints, error, ("/generate", "/info", "/chat_tokenize", "/invocations", "/vertex"))
