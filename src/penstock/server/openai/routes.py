"""OpenAI's routes."""

from __future__ import annotations

from typing import Any

from penstock.server.http import Call, Dialect, Endpoint, Reply, reply
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


def adapter_card(served: Served, adapter: str) -> dict[str, Any]:
    return {**model_card(served), "id": adapter, "root": adapter, "parent": served.name}


async def list_models(call: Call) -> Reply:
    models = list(call.state.served.values())
    adapters = [adapter_card(s, name) for s in models for name in s.llm.model.adapters.names()]
    return reply({"object": "list", "data": [*map(model_card, models), *adapters]})


async def one_model(call: Call) -> Reply:
    return reply(model_card(call.state.find(call.path_params["name"])))


def dialect() -> Dialect:
    endpoints = [
        Endpoint("GET", "/v1/models", list_models),
        Endpoint("GET", "/v1/models/{name:path}", one_model),
        Endpoint("POST", "/v1/completions", completions, body=CompletionRequest),
        Endpoint("POST", "/v1/chat/completions", chat, body=ChatRequest),
        Endpoint("POST", "/v1/embeddings", embeddings, body=EmbeddingRequest),
        *responses.endpoints(),
    ]
    return Dialect("openai", tuple(endpoints), error, ("/v1/",))
