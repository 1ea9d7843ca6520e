"""Which models there are and which are loaded; administrators load and unload them. llama-server's routes."""

from __future__ import annotations

import msgspec

from penstock.server.body import parse, read
from penstock.server.errors import not_found
from penstock.server.http import Call, Dialect, Endpoint, Reply, reply
from penstock.server.openai.errors import error


class ModelRequest(msgspec.Struct, kw_only=True):
    model: str


async def list_models(call: Call) -> Reply:
    """Every model, with its status: loaded, loading, or unloaded."""
    state = call.state
    names = list(dict.fromkeys([*state.served, *state.library.places()]))
    data = [{"id": name, "object": "model", "status": {"value": _status(call, name)}} for name in names]
    return reply({"object": "list", "data": data})


def _status(call: Call, name: str) -> str:
    if name in call.state.served:
        return "loaded"
    return "loading" if call.state.library.loading(name) else "unloaded"


async def load(call: Call) -> Reply:
    """Load a model now, not when it is first asked; returns when it is there."""
    request = read(parse(call.body), ModelRequest)
    if request.model not in call.state.served and request.model not in call.state.library.places():
        raise not_found(f"no model '{request.model[:128]}' here", "model_not_found", "model")
    await call.state.library.load(call.state, request.model)
    return reply({"success": True})


async def unload(call: Call) -> Reply:
    """Free a model's memory; it is loaded again when it is next asked."""
    request = read(parse(call.body), ModelRequest)
    await call.state.library.unload(call.state, request.model)
    return reply({"success": True})


def dialect() -> Dialect:
    endpoints = (
        Endpoint("GET", "/models", list_models),
        Endpoint("POST", "/models/load", load, body=ModelRequest, admin=True),
        Endpoint("POST", "/models/unload", unload, body=ModelRequest, admin=True),
    )
    return Dialect("models", endpoints, error)
