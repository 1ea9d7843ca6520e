"""Conversations that the server holds between requests, so that each sends only what is new (``thread``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.errors import RequestError
from penstock.server.anthropic.schema import MessagesRequest
from penstock.server.errors import not_found
from penstock.server.http import Call, encode
from penstock.server.store import Store, owner_of

NOT_FOUND = "thread_not_found"


@dataclass(frozen=True, slots=True)
class Thread:
    """A conversation as far as one answer, and what it was begun with."""

    messages: list[dict[str, Any]]
    system: str | list[dict[str, Any]] | None
    tools: list[dict[str, Any]] | None


def resumed(call: Call, request: MessagesRequest) -> MessagesRequest:
    """The whole request: for ``{"type": "continue", "previous_message_id": …}`` with what was said before.

    Raises ``RequestError`` for another ``type`` than that and ``create``, and for fields that belong to the thread;
    404 for an answer that is not kept.
    """
    wish = request.thread
    if wish is None or wish.get("type") == "create":
        return request
    if wish.get("type") != "continue":
        raise RequestError("thread.type must be create or continue", "thread")
    for name in ("system", "tools"):
        if getattr(request, name):
            raise RequestError(f"{name} is kept by the thread, as it was begun: leave it out", name)
    held = _store(call).get(owner_of(call), str(wish.get("previous_message_id")))
    if held is None:
        raise not_found("no such thread is kept here (they live in memory only): send all messages", NOT_FOUND)
    together = [*held.messages, *request.messages]
    return msgspec.structs.replace(request, messages=together, system=held.system, tools=held.tools)


def keep(call: Call, request: MessagesRequest, name: str, content: list[dict[str, Any]]) -> None:
    """Keep the answer ``name`` to a request that asks for it."""
    if request.thread is not None:
        thread = Thread([*request.messages, {"role": "assistant", "content": content}], request.system, request.tools)
        size = len(encode(thread.messages)) + len(encode(thread.system)) + len(encode(thread.tools))
        _store(call).put(owner_of(call), name, thread, size)


def _store(call: Call) -> Store[Thread]:
    store: Store[Thread] = call.state.shared.setdefault("threads", Store())
    return store
