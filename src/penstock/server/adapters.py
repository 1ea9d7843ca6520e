"""Adapters loaded and unloaded while the server runs. For administrators only: a request names a folder."""

from __future__ import annotations

import msgspec

from penstock.errors import CheckpointError, ConfigError
from penstock.server.body import parse, read
from penstock.server.errors import HttpError, not_found
from penstock.server.http import Call, Dialect, Endpoint, Reply, reply
from penstock.server.openai.errors import error
from penstock.server.openai.routes import adapter_card


class LoadRequest(msgspec.Struct, kw_only=True):
    lora_name: str
    lora_path: str
    model: str | None = None
    base_model_name: str | None = None


class UnloadRequest(msgspec.Struct, kw_only=True):
    lora_name: str
    model: str | None = None


HARMLESS = frozenset({"lora_int_id", "load_inplace", "is_3d_lora_weight"})


async def load(call: Call) -> Reply:
    """Load a LoRA or prefix adapter; requests name it as their model from then on."""
    request = read(parse(call.body), LoadRequest, HARMLESS)
    served = call.state.find(request.model or request.base_model_name)
    if request.lora_name in call.state.served or request.lora_name in call.state.library.places():
        raise HttpError(400, "invalid_request", f"'{request.lora_name}' is the name of a model", "lora_name")
    try:
        await served.llm.load_adapter(request.lora_name, request.lora_path)
    except (CheckpointError, ConfigError) as problem:
        raise HttpError(400, problem.kind, str(problem), "lora_path") from None
    return reply(adapter_card(served, request.lora_name))


async def unload(call: Call) -> Reply:
    """Forget an adapter; requests under way finish with it."""
    request = read(parse(call.body), UnloadRequest, HARMLESS)
    for served in call.state.served.values():
        if request.lora_name in served.llm.model.adapters.names():
            await served.llm.unload_adapter(request.lora_name)
            return reply({"id": request.lora_name, "object": "model", "deleted": True})
    raise not_found(f"no adapter '{request.lora_name[:128]}' is loaded", "model_not_found", "lora_name")


def dialect() -> Dialect:
    endpoints = (
        Endpoint("POST", "/v1/load_lora_adapter", load, body=LoadRequest, admin=True),
        Endpoint("POST", "/v1/unload_lora_adapter", unload, body=UnloadRequest, admin=True),
    )
    return Dialect("adapters", endpoints, error)
