"""OpenAI's routes."""

from __future__ import annotations

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


def model_card(served: Served) -> dict[str, Any]:
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "penstock",
        "root": served.name,
        "parent": None,
        "max_model_len": served.llm.model.max_model_len,
        "permission": [],
    }


def absent_card(name: str) -> dict[str, Any]:
    """A model that is loaded when it is first asked."""
    return {
        "id": name, "object": "model", "created": 0, "owned_by": "penstock", "root": name, "parent": None,
        "max_model_len": None, "permission": [],
    }  # fmt: skip


def alias_card(served: Served, name: str) -> dict[str, Any]:
    return {**model_card(served), "id": name}


def adapter_card(served: Served, adapter: str) -> dict[str, Any]:
    return {**model_card(served), "id": adapter, "root": adapter, "parent": served.name}


async def list_models(call: Call) -> Reply:
    models = list(call.state.served.values())
    aliases = [alias_card(s, name) for s in models for name in s.names]
    adapters = [adapter_card(s, name) for s in models for name in s.llm.model.adapters.names()]
    others = [absent_card(name) for name in call.state.library.places() if name not in call.state.served]
    return reply({"object": "list", "data": [*map(model_card, models), *aliases, *adapters, *others]})


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
