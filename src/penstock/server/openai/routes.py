"""OpenAI's routes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from penstock.server.http import Call, Dialect, Endpoint, Reply, reply
from penstock.server.library import NotLoaded
from penstock.server.openai.chat import chat
from penstock.server.openai.completions import completions
from penstock.server.openai.embeddings import EmbeddingRequest, embeddings
from penstock.server.openai.errors import error
from penstock.server.openai.schema import ChatRequest, CompletionRequest
from penstock.server.responses import routes as responses
from penstock.server.state import Served

Card = dict[str, Any]


def card(name: str, created: int, length: int | None, root: str | None = None, parent: str | None = None) -> Card:
    """OpenAI's, with vLLM's additions and what Anthropic's clients read."""
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "penstock",
        "root": name if root is None else root,
        "parent": parent,
        "max_model_len": length,
        "permission": [],
        "type": "model",
        "display_name": name,
        "created_at": datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def model_card(served: Served, alias: str | None = None) -> Card:
    return card(alias or served.name, served.created, served.llm.model.max_model_len, served.name)


def absent_card(name: str) -> Card:
    """A model that is loaded when it is first asked."""
    return card(name, 0, None)


def adapter_card(served: Served, adapter: str) -> Card:
    return card(adapter, served.created, served.llm.model.max_model_len, parent=served.name)


async def list_models(call: Call) -> Reply:
    models = list(call.state.served.values())
    aliases = [model_card(s, name) for s in models for name in s.names]
    adapters = [adapter_card(s, name) for s in models for name in s.llm.model.adapters.names()]
    others = [absent_card(name) for name in call.state.library.places() if name not in call.state.served]
    cards = [*map(model_card, models), *aliases, *adapters, *others]
    first, last = (cards[0]["id"], cards[-1]["id"]) if cards else (None, None)
    return reply({"object": "list", "data": cards, "has_more": False, "first_id": first, "last_id": last})


async def one_model(call: Call) -> Reply:
    name = call.path_params["name"]
    try:
        return reply(model_card(call.state.find(name)))
    except NotLoaded:  # looking is no reason to load
        return reply(absent_card(name))


def dialect() -> Dialect:
    endpoints = [
        Endpoint("GET", "/v1/models", list_models, always=True),
        Endpoint("GET", "/v1/models/{name:path}", one_model),
        Endpoint("POST", "/v1/completions", completions, body=CompletionRequest),
        Endpoint("POST", "/v1/chat/completions", chat, body=ChatRequest),
        Endpoint("POST", "/v1/embeddings", embeddings, body=EmbeddingRequest),
        *responses.endpoints(),
    ]
    return Dialect("openai", tuple(endpoints), error, ("/v1/",))
