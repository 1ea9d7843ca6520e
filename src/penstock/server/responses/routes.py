"""``/v1/responses`` and what is kept of it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.errors import RequestError
from penstock.server.body import parse, read
from penstock.server.errors import not_found
from penstock.server.errors import problem as problem_of
from penstock.server.http import Call, Endpoint, Reply, Stream, encode, reply
from penstock.server.openai import adapt as openai
from penstock.server.openai.errors import error_body
from penstock.server.openai.schema import Generation
from penstock.server.responses import adapt
from penstock.server.responses.schema import HARMLESS, REFUSED, SAMPLING, InputTokensRequest, ResponsesRequest
from penstock.server.sse import named_event
from penstock.server.state import Served
from penstock.server.store import Store, owner_of
from penstock.server.structured import from_response_format
from penstock.server.tools.check import check_tools
from penstock.server.turn import Turn, begin, begin_with_newest, prompt_of


async def create(call: Call) -> Reply | Stream:
    request = read(parse(call.body), ResponsesRequest, HARMLESS, REFUSED)
    _check(request)
    served = call.state.find(request.model)
    tools = adapt.functions(request.tools)
    offer = check_tools(tools, request.tool_choice)
    before = _before(call, request.previous_response_id)
    messages = [*before, *adapt.messages(request.input)]
    same = {name: getattr(request, name) for name in SAMPLING}
    generation = Generation(max_tokens=request.max_output_tokens, **same)
    top = adapt.wanted_logprobs(request)
    params = openai.sampling_params(generation, call.state.default_params(served), logprobs=top)

    async def attempt(kept: Sequence[dict[str, Any]]) -> Turn:
        return await begin(
            call, served, _shown(request.instructions, kept), params, offer=offer,
            grammar=from_response_format((request.text or {}).get("format"), "text"), tools=tools,
            stream=bool(request.stream),
            parallel=request.parallel_tool_calls is not False,
            kwargs=_template_kwargs(request.reasoning),
        )  # fmt: skip

    turn = await (begin_with_newest(messages, attempt) if request.truncation == "auto" else attempt(messages))
    builder = adapt.Builder(served.llm.model.tokenizer, top or 0)
    work = _Response(call, request, served, turn, messages, f"resp_{call.request_id}", builder)
    if request.stream:
        return Stream(
            work.events(),
            lambda p: named_event("error", {"type": "error", **error_body(p)["error"]}),
            turn.answers.close,
        )
    return reply(await work.whole())


def _shown(instructions: str | None, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"role": "system", "content": instructions}, *messages] if instructions else list(messages)


def _template_kwargs(reasoning: dict[str, Any] | None) -> dict[str, Any] | None:
    effort = (reasoning or {}).get("effort")
    return {"reasoning_effort": effort} if isinstance(effort, str) else None


def _check(request: ResponsesRequest) -> None:
    if request.truncation not in (None, "auto", "disabled"):
        raise RequestError("truncation can be 'auto' or 'disabled'", "truncation")


@dataclass(frozen=True, slots=True)
class Kept:
    """For ``previous_response_id``. ``messages``: the conversation with this turn. ``items``: its input as sent."""

    response: dict[str, Any]
    messages: list[dict[str, Any]]
    items: list[dict[str, Any]]


@dataclass(slots=True)
class _Response:
    """One response in the making."""

    call: Call
    request: ResponsesRequest
    served: Served
    turn: Turn
    messages: list[dict[str, Any]]
    id: str
    builder: adapt.Builder
    created: int = field(default_factory=lambda: int(time.time()))

    def body(self, status: str) -> dict[str, Any]:
        request, turn = self.request, self.turn
        usage = turn.answers.usage
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": request.metadata or {},
            "model": self.served.name,
            "output": list(self.builder.items) if status != "in_progress" else [],
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": request.previous_response_id,
            "reasoning": request.reasoning or {"effort": None, "summary": None},
            "service_tier": "default",
            "store": request.store is not False,
            "temperature": request.temperature,
            "text": request.text or {"format": {"type": "text"}},
            "tool_choice": request.tool_choice or "auto",
            "tools": request.tools or [],
            "top_logprobs": request.top_logprobs or 0,
            "top_p": request.top_p,
            "truncation": request.truncation or "disabled",
            "usage": None if status == "in_progress" else {
                "input_tokens": usage.prompt,
                "input_tokens_details": {"cached_tokens": usage.cached},
                "output_tokens": usage.completion,
                "output_tokens_details": {"reasoning_tokens": usage.reasoning or 0},
                "total_tokens": usage.prompt + usage.completion,
            },
        }  # fmt: skip

    async def whole(self) -> dict[str, Any]:
        for piece in (await self.turn.whole()).pieces:
            for _ in self.builder.add(piece):
                pass
        for _ in self.builder.close(self.status):
            pass
        return self.keep()

    @property
    def status(self) -> str:
        return "incomplete" if self.turn.finish_reason == "length" else "completed"

    def keep(self) -> dict[str, Any]:
        found = self.body(self.status)
        if self.request.store is not False:
            items = self.request.input
            if isinstance(items, str):
                items = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": items}]}]
            given = [{"id": f"item_{i}", **item} for i, item in enumerate(items)]
            messages = [*self.messages, adapt.answer_message(self.builder.items)]
            size = len(encode(found)) + len(encode(messages)) + len(encode(given))
            _store(self.call).put(owner_of(self.call), self.id, Kept(found, messages, given), size)
        return found

    async def events(self) -> AsyncIterator[bytes]:
        builder = self.builder

        def told(event: dict[str, Any]) -> bytes:
            return named_event(event["type"], event)

        yield told(builder.event("response.created", response=self.body("in_progress")))
        yield told(builder.event("response.in_progress", response=self.body("in_progress")))
        try:
            async for pieces in self.turn.pieces():
                out = b"".join(told(event) for piece in pieces for event in builder.add(piece))
                if out:
                    yield out
        except Exception as error:
            failed = {**self.body("failed"), "error": {"code": "server_error", "message": problem_of(error).message}}
            yield told(builder.event("response.failed", response=failed))
            return
        yield b"".join(told(event) for event in builder.close(self.status))
        yield told(builder.event(f"response.{self.status}", response=self.keep()))


def _store(call: Call) -> Store[Kept]:
    store: Store[Kept] = call.state.shared.setdefault("responses", Store())
    return store


def _before(call: Call, name: str | None) -> list[dict[str, Any]]:
    return [] if name is None else list(_kept(call, name, "previous_response_id").messages)


def _kept(call: Call, name: str, param: str | None = None) -> Kept:
    found = _store(call).get(owner_of(call), name)
    if found is None:
        raise not_found(f"no response '{name[:128]}' is kept here (they live in memory only)", "not_found", param)
    return found


async def retrieve(call: Call) -> Reply:
    return reply(_kept(call, call.path_params["name"]).response)


async def input_items(call: Call) -> Reply:
    items = _kept(call, call.path_params["name"]).items
    first, last = (items[0]["id"], items[-1]["id"]) if items else (None, None)
    return reply({"object": "list", "data": items, "first_id": first, "last_id": last, "has_more": False})


async def input_tokens(call: Call) -> Reply:
    """How long the prompt of a response would be, without making it."""
    request = read(parse(call.body), InputTokensRequest, HARMLESS, REFUSED)
    served = call.state.find(request.model)
    tools = adapt.functions(request.tools)
    offer = check_tools(tools, request.tool_choice)
    shown = _shown(request.instructions, [*_before(call, request.previous_response_id), *adapt.messages(request.input)])
    prompt = await prompt_of(served, shown, offer=offer, tools=tools, kwargs=_template_kwargs(request.reasoning))
    return reply({"object": "response.input_tokens", "input_tokens": len(prompt.token_ids)})


async def cancel(call: Call) -> Reply:
    _kept(call, call.path_params["name"])
    said = "only a response in the background can be cancelled, and there are none here: close the connection instead"
    raise RequestError(said)


async def delete(call: Call) -> Reply:
    name = call.path_params["name"]
    _kept(call, name)
    _store(call).drop(owner_of(call), name)
    return reply({"id": name, "object": "response", "deleted": True})


def endpoints() -> tuple[Endpoint, ...]:
    return (
        Endpoint("POST", "/v1/responses", create, body=ResponsesRequest),
        Endpoint("POST", "/v1/responses/input_tokens", input_tokens, body=InputTokensRequest),
        Endpoint("GET", "/v1/responses/{name}", retrieve),
        Endpoint("POST", "/v1/responses/{name}/cancel", cancel, raw=True),
        Endpoint("DELETE", "/v1/responses/{name}", delete),
        Endpoint("GET", "/v1/responses/{name}/input_items", input_items),
    )
