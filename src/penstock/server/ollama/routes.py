"""Ollama's routes for generating and for looking at what is served. Models are not pulled or deleted over HTTP."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from penstock._version import __version__
from penstock.errors import RequestError
from penstock.server import embeddings
from penstock.server.answers import Answers, Usage
from penstock.server.body import parse, read
from penstock.server.current import CURRENT
from penstock.server.embeddings import Wish
from penstock.server.errors import HttpError, Problem
from penstock.server.http import Call, Dialect, Endpoint, Reply, Stream, encode, reply
from penstock.server.ollama.schema import (
    HARMLESS,
    HARMLESS_OPTIONS,
    REFUSED,
    REFUSED_OPTIONS,
    ChatRequest,
    Common,
    EmbedRequest,
    GenerateRequest,
    Options,
    ShowRequest,
)
from penstock.server.openai.adapt import chat_logprobs, top_logprobs
from penstock.server.prompts import Truncation, encode_prompts
from penstock.server.reading import Reading, abilities
from penstock.server.state import Served
from penstock.server.structured import from_ollama
from penstock.server.tools.check import check_tools
from penstock.server.tools.pieces import Piece, Reasoning, Text, ToolCall, read_json
from penstock.server.turn import Turn, begin, begin_with_newest, merged
from penstock.types import F32, Message, RequestOutputKind, SamplingParams

SAME = ("temperature", "top_k", "top_p", "min_p", "typical_p", "presence_penalty", "frequency_penalty", "seed")
LINES = "application/x-ndjson"
Shape = Callable[[Sequence[Piece]], dict[str, Any]]


async def chat(call: Call) -> Reply | Stream:
    request = read(parse(call.body), ChatRequest, HARMLESS, REFUSED)
    served = _served(call, request)
    if not request.messages:
        return reply(
            {**_head(served), "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "load"}
        )
    offer = check_tools(request.tools, None)
    params = _params(call, served, request)

    async def attempt(messages: Sequence[Message]) -> Turn:
        return await begin(
            call,
            served,
            messages,
            params,
            offer=offer,
            grammar=from_ollama(request.format),
            tools=request.tools,
            stream=request.stream is not False,
            kwargs=_thinking(request),
            within_context=True,
            reasoning=request.think is not False,
        )

    given = [_message(m) for m in request.messages]
    turn = await (attempt(given) if request.truncate is False else begin_with_newest(given, attempt))

    def shape(pieces: Sequence[Piece]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": _joined(pieces, Text)}
        if thoughts := _joined(pieces, Reasoning):
            message["thinking"] = thoughts
        calls = [
            {"function": {"name": p.name, "arguments": read_json(p.arguments) or {}}}
            for p in pieces
            if isinstance(p, ToolCall)
        ]
        return {"message": {**message, "tool_calls": calls} if calls else message}

    return await _answer(request, turn, shape)


async def generate(call: Call) -> Reply | Stream:
    request = read(parse(call.body), GenerateRequest, HARMLESS, REFUSED)
    served = _served(call, request)
    if not request.prompt:
        return reply({**_head(served), "response": "", "done": True, "done_reason": "load"})
    params, stream = _params(call, served, request), request.stream is not False
    if request.raw:
        prompts = await encode_prompts(served.llm, [request.prompt])
        kind = RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY
        kind = RequestOutputKind.DELTA if request.logprobs else kind
        params = replace(params, output_kind=kind, structured_outputs=from_ollama(request.format))
        turn = Turn(served, await Answers.submit(served, prompts, params, within_context=True), Reading())
    else:
        messages: list[Message] = [{"role": "system", "content": request.system}] if request.system else []
        messages.append({"role": "user", "content": request.prompt})
        turn = await begin(
            call,
            served,
            messages,
            params,
            grammar=from_ollama(request.format),
            stream=stream,
            kwargs=_thinking(request),
            within_context=True,
            reasoning=request.think is not False,
        )

    def shape(pieces: Sequence[Piece]) -> dict[str, Any]:
        found = {"response": _joined(pieces, Text)}
        return {**found, "thinking": thoughts} if (thoughts := _joined(pieces, Reasoning)) else found

    return await _answer(request, turn, shape)


async def _answer(request: Common, turn: Turn, shape: Shape) -> Reply | Stream:
    current = CURRENT.get()
    began = time.monotonic() if current is None else current.began
    if request.stream is not False:
        return Stream(
            _lines(turn, request, shape, began), lambda p: encode(error(p)[1]) + b"\n", turn.answers.close, LINES
        )
    result = await turn.whole()
    told = _logprobs(turn, request, result.pieces)
    return reply({**_head(turn.served), **shape(result.pieces), **told, **_done(turn, began)})


async def _lines(turn: Turn, request: Common, shape: Shape, began: float) -> AsyncIterator[bytes]:
    async for pieces in turn.pieces():
        if pieces:
            told = _logprobs(turn, request, pieces)
            yield encode({**_head(turn.served), **shape(merged(pieces)), **told, "done": False}) + b"\n"
    yield encode({**_head(turn.served), **shape([]), **_done(turn, began)}) + b"\n"


def _logprobs(turn: Turn, request: Common, pieces: Sequence[Piece]) -> dict[str, Any]:
    """``logprobs`` of the text in ``pieces``, where they were asked for."""
    if not request.logprobs:
        return {}
    scored = [each for p in pieces if isinstance(p, Text) for each in p.scores]
    tokens, scores = [t for t, _ in scored], [s for _, s in scored]
    tokenizer = turn.served.llm.model.tokenizer
    return {"logprobs": chat_logprobs(tokens, scores, request.top_logprobs or 0, tokenizer, as_ids=False)["content"]}


def _head(served: Served) -> dict[str, Any]:
    return {"model": served.name, "created_at": _iso(time.time())}


def _done(turn: Turn, began: float) -> dict[str, Any]:
    usage, times, now = turn.answers.usage, turn.metrics, time.monotonic()
    first = times.first_token_time if times and times.first_token_time is not None else now
    scheduled = times.scheduled_time if times and times.scheduled_time is not None else began
    last = times.last_token_time if times and times.last_token_time is not None else now
    return {
        "done": True,
        "done_reason": "length" if turn.finish_reason == "length" else "stop",
        "total_duration": _ns(now - began),
        "load_duration": 0,
        "prompt_eval_count": usage.prompt,
        "prompt_eval_duration": _ns(first - scheduled),
        "eval_count": usage.completion,
        "eval_duration": max(1, _ns(last - first)),
    }


def _params(call: Call, served: Served, request: Common) -> SamplingParams:
    given = read(request.options or {}, Options, HARMLESS_OPTIONS, REFUSED_OPTIONS)
    values: dict[str, Any] = {k: v for k in SAME if (v := getattr(given, k)) is not None}
    if given.repeat_penalty is not None:
        values["repetition_penalty"] = given.repeat_penalty
    if given.stop is not None:
        values["stop"] = (given.stop,) if isinstance(given.stop, str) else tuple(given.stop)
    if given.num_predict is not None and given.num_predict < -2:
        raise RequestError("num_predict must be a number of tokens, or -1 for no limit", "num_predict")
    if (given.num_predict or 0) > 0:
        values["max_tokens"] = given.num_predict
    if request.logprobs:
        values["logprobs"] = top_logprobs(request.top_logprobs)
    return replace(call.state.default_params(served), **values)


def _served(call: Call, request: Common) -> Served:
    """Names may carry a tag: ``name:latest``."""
    name = request.model
    if name is not None and name not in call.state.served and name not in call.state.library.places():
        name = name.removesuffix(":latest")
    return call.state.find(name)


def _message(given: dict[str, Any]) -> dict[str, Any]:
    if given.get("images"):
        raise RequestError("images are not available: these models read text", "messages")
    found = {k: v for k, v in given.items() if k not in ("images", "thinking", "tool_name")}
    if found.get("role") == "tool" and "tool_name" in given:
        found["name"] = given["tool_name"]
    return found


def _thinking(request: Common) -> dict[str, Any] | None:
    return None if request.think is None else {"enable_thinking": bool(request.think)}


def _joined(pieces: Sequence[Piece], kind: type[Text] | type[Reasoning]) -> str:
    return "".join(p.text for p in pieces if isinstance(p, kind))


async def embed(call: Call) -> Reply:
    """Vectors of length 1, one for each text; over-long texts lose their end unless ``truncate`` is false."""
    request = read(parse(call.body), EmbedRequest, HARMLESS)
    began, served = time.monotonic(), _served(call, Common(model=request.model))
    if request.input is None:
        raise RequestError("input is missing: give a text or a list of texts", "input")
    texts = [request.input] if isinstance(request.input, str) else list(request.input)
    vectors, usage = await _embed(call, served, texts, request)
    took, found = _ns(time.monotonic() - began), [v.tolist() for v in vectors]
    return reply({
        "model": served.name, "embeddings": found, "total_duration": took, "load_duration": 0,
        "prompt_eval_count": usage.prompt,
    })  # fmt: skip


async def old_embed(call: Call) -> Reply:
    """``/api/embeddings``, the older form: one ``prompt``, one vector."""
    request = read(parse(call.body), EmbedRequest, HARMLESS)
    served = _served(call, Common(model=request.model))
    vectors, _ = await _embed(call, served, [request.prompt or ""], request)
    return reply({"embedding": vectors[0].tolist()})


async def _embed(call: Call, served: Served, texts: list[str], request: EmbedRequest) -> tuple[list[F32], Usage]:
    read(request.options or {}, Options, HARMLESS_OPTIONS, REFUSED_OPTIONS)
    if not texts or not all(texts):
        raise RequestError("input has an empty text: there is nothing to embed", "input")
    cut = None if request.truncate is False else Truncation(served.llm.model.max_model_len, "right")
    return await embeddings.embed(call.state, served, list(texts), Wish(dimensions=request.dimensions, truncation=cut))


def _card(served: Served) -> dict[str, Any]:
    model = served.llm.model
    details = {
        "parent_model": "", "format": "safetensors", "family": model.family.name, "families": [model.family.name],
        "parameter_size": "", "quantization_level": "none",
    }  # fmt: skip
    return {
        "name": served.name, "model": served.name, "modified_at": _iso(served.created),
        "size": model.executor.memory.weights, "digest": served.fingerprint, "details": details,
    }  # fmt: skip


def _absent(name: str) -> dict[str, Any]:
    """A model that is loaded when it is first asked."""
    details = {
        "parent_model": "", "format": "", "family": "", "families": [], "parameter_size": "", "quantization_level": "",
    }  # fmt: skip
    return {"name": name, "model": name, "modified_at": _iso(0), "size": 0, "digest": "", "details": details}


async def tags(call: Call) -> Reply:
    served = call.state.served
    others = [_absent(name) for name in call.state.library.places() if name not in served]
    return reply({"models": [*map(_card, served.values()), *others]})


async def running(call: Call) -> Reply:
    more = {"expires_at": "9999-12-31T23:59:59Z", "size_vram": 0}
    return reply({"models": [{**_card(s), **more} for s in call.state.served.values()]})


async def show(call: Call) -> Reply:
    request = read(parse(call.body), ShowRequest, HARMLESS)
    served = _served(call, Common(model=request.model or request.name))
    model = served.llm.model
    template = model.tokenizer.chat_template if model.tokenizer is not None else None
    card = _card(served)
    info = {
        "general.architecture": model.family.name,
        f"{model.family.name}.context_length": model.max_model_len,
        f"{model.family.name}.vocab_size": model.architecture.vocab_size,
    }
    return reply({
        "modelfile": "", "parameters": "", "template": template or "", "details": card["details"], "model_info": info,
        "capabilities": ["completion", *abilities(call.state, served), "embedding"], "modified_at": card["modified_at"],
    })  # fmt: skip


async def version(call: Call) -> Reply:
    return reply({"version": __version__})


async def not_here(call: Call) -> Reply:
    raise HttpError(
        403, "not_available", "models are not managed over this API: start the server with the model you want"
    )


def error(problem: Problem) -> tuple[int, dict[str, Any]]:
    return problem.status, {"error": problem.message}


def _ns(seconds: float) -> int:
    return max(0, round(seconds * 1e9))


def _iso(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).isoformat().replace("+00:00", "Z")


def dialect() -> Dialect:
    managed = [Endpoint("POST", f"/api/{name}", not_here) for name in ("pull", "push", "create", "copy")]
    endpoints = (
        Endpoint("POST", "/api/chat", chat, raw=True, body=ChatRequest),
        Endpoint("POST", "/api/generate", generate, raw=True, body=GenerateRequest),
        Endpoint("POST", "/api/embed", embed, raw=True, body=EmbedRequest),
        Endpoint("POST", "/api/embeddings", old_embed, raw=True, body=EmbedRequest),
        Endpoint("POST", "/api/show", show, raw=True, body=ShowRequest),
        Endpoint("GET", "/api/tags", tags),
        Endpoint("GET", "/api/ps", running),
        Endpoint("GET", "/api/version", version),
        Endpoint("DELETE", "/api/delete", not_here),
        *managed,
    )
    return Dialect("ollama", endpoints, error, ("/api/",))
