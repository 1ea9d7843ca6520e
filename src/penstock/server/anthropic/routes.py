"""``/v1/messages`` and ``/v1/messages/count_tokens``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from penstock.errors import RequestError
from penstock.server.anthropic import adapt, threads
from penstock.server.anthropic.schema import HARMLESS, REFUSED, MessagesRequest
from penstock.server.body import parse, read
from penstock.server.current import CURRENT
from penstock.server.errors import Problem
from penstock.server.http import Call, Dialect, Endpoint, Reply, Stream, reply
from penstock.server.openai import adapt as openai
from penstock.server.openai.schema import Generation
from penstock.server.sse import named_event
from penstock.server.tools.check import check_tools
from penstock.server.tools.pieces import Piece, Reasoning, Text, ToolCall
from penstock.server.turn import Turn, begin, merged, prompt_of

KINDS = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large",
    429: "rate_limit_error", 500: "api_error", 503: "overloaded_error",
}  # fmt: skip


async def messages(call: Call) -> Reply | Stream:
    request = threads.resumed(call, read(parse(call.body), MessagesRequest, HARMLESS, REFUSED))
    if request.max_tokens is None:
        raise RequestError("max_tokens is missing", "max_tokens")
    served = call.state.find(request.model)
    tools = adapt.functions(request.tools)
    chosen, parallel = adapt.choice(request.tool_choice)
    offer = check_tools(tools, chosen)
    thinks, budget = adapt.thinking(request.thinking)
    generation = Generation(
        max_tokens=request.max_tokens, temperature=request.temperature, top_k=request.top_k, top_p=request.top_p,
        stop=request.stop_sequences,
    )  # fmt: skip
    params = openai.sampling_params(generation, call.state.default_params(served))
    turn = await begin(
        call, served, adapt.messages(request.messages, request.system), params,
        offer=offer,
        grammar=adapt.grammar(request.output_config, request.output_format), tools=tools,
        parallel=parallel, stream=bool(request.stream),
        kwargs=None if thinks is None else {"enable_thinking": thinks}, hidden=thinks is False, budget=budget,
        within_context=True,
    )  # fmt: skip
    name = f"msg_{call.request_id}"
    if request.stream:
        return Stream(
            _events(call, turn, name, request),
            lambda p: named_event("error", error(p)[1]),
            turn.answers.close,
        )
    result = await turn.whole()
    reason, sequence = adapt.stop(turn, request)
    content = [adapt.block(p) for p in result.pieces]
    threads.keep(call, request, name, content)
    return reply({
        **_head(turn, name),
        "content": content,
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": _usage(turn),
    })  # fmt: skip


def _head(turn: Turn, name: str) -> dict[str, Any]:
    return {"id": name, "type": "message", "role": "assistant", "model": turn.served.name}


def _usage(turn: Turn) -> dict[str, Any]:
    usage = turn.answers.usage
    return {
        "input_tokens": usage.prompt - usage.cached,
        "output_tokens": usage.completion,
        "cache_read_input_tokens": usage.cached,
        "cache_creation_input_tokens": 0,
    }


async def _events(call: Call, turn: Turn, name: str, request: MessagesRequest) -> AsyncIterator[bytes]:
    start = {**_head(turn, name), "content": [], "stop_reason": None, "stop_sequence": None, "usage": _usage(turn)}
    yield named_event("message_start", {"type": "message_start", "message": start})
    index, kind = -1, None
    told: list[Piece] = []
    async for pieces in turn.pieces():
        told += pieces
        out = []
        for piece in pieces:
            if kind is not type(piece) or isinstance(piece, ToolCall):
                if kind is not None:
                    out.append(_stop_block(index))
                index, kind = index + 1, type(piece)
                out.append(_start_block(index, piece))
            out.append(_delta(index, piece))
        if out:
            yield b"".join(out)
    out = [_stop_block(index)] if kind is not None else []
    reason, sequence = adapt.stop(turn, request)
    threads.keep(call, request, name, [adapt.block(p) for p in merged(told)])
    delta = {"stop_reason": reason, "stop_sequence": sequence}
    out.append(named_event("message_delta", {"type": "message_delta", "delta": delta, "usage": _usage(turn)}))
    out.append(named_event("message_stop", {"type": "message_stop"}))
    yield b"".join(out)


def _start_block(index: int, piece: Text | Reasoning | ToolCall) -> bytes:
    empty = adapt.block(piece)
    empty.update({k: "" for k in ("text", "thinking") if k in empty} | ({"input": {}} if "input" in empty else {}))
    return named_event("content_block_start", {"type": "content_block_start", "index": index, "content_block": empty})


def _delta(index: int, piece: Text | Reasoning | ToolCall) -> bytes:
    if isinstance(piece, Text):
        delta = {"type": "text_delta", "text": piece.text}
    elif isinstance(piece, Reasoning):
        delta = {"type": "thinking_delta", "thinking": piece.text}
    else:
        delta = {"type": "input_json_delta", "partial_json": piece.arguments}
    return named_event("content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta})


def _stop_block(index: int) -> bytes:
    return named_event("content_block_stop", {"type": "content_block_stop", "index": index})


async def count_tokens(call: Call) -> Reply:
    request = threads.resumed(call, read(parse(call.body), MessagesRequest, HARMLESS, REFUSED))
    served = call.state.find(request.model)
    tools = adapt.functions(request.tools)
    offer = check_tools(tools, adapt.choice(request.tool_choice)[0])
    prompt = await prompt_of(served, adapt.messages(request.messages, request.system), offer=offer, tools=tools)
    return reply({"input_tokens": len(prompt.token_ids)})


def error(problem: Problem) -> tuple[int, dict[str, Any]]:
    kind = KINDS.get(problem.status, "invalid_request_error")
    status = 529 if problem.kind == "overloaded" else problem.status
    said: dict[str, Any] = {"type": kind, "message": problem.message}
    if problem.kind == threads.NOT_FOUND:
        said["details"] = {"error_code": problem.kind}
    current = CURRENT.get()
    return status, {"type": "error", "error": said, "request_id": None if current is None else current.request_id}


def dialect() -> Dialect:
    endpoints = (
        Endpoint("POST", "/v1/messages", messages, body=MessagesRequest),
        Endpoint("POST", "/v1/messages/count_tokens", count_tokens, body=MessagesRequest),
    )
    return Dialect("anthropic", endpoints, error, ("/v1/messages",), id_header="Request-Id")
