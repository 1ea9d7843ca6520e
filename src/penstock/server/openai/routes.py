"""OpenAI's routes, vLLM's companions to them, and what operators ask for."""

from __future__ import annotations

from typing import Any

from penstock._version import __version__
from penstock.errors import RequestError
from penstock.server.body import parse, read
from penstock.server.errors import HttpError
from penstock.server.http import Call, Dialect, Endpoint, Reply, reply
from penstock.server.metrics import CONTENT_TYPE
from penstock.server.openai.chat import chat
from penstock.server.openai.completions import completions
from penstock.server.openai.errors import error_body
from penstock.server.openai.schema import DetokenizeRequest, TokenizeRequest
from penstock.server.prompts import encode_prompts, render_chat
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


async def list_models(call: Call) -> Reply:
    return reply({"object": "list", "data": [model_card(s) for s in call.state.served.values()]})


async def one_model(call: Call) -> Reply:
    return reply(model_card(call.state.find(call.path_params["name"])))


async def live(call: Call) -> Reply:
    """The process answers."""
    return reply({"status": "ok"})


async def health(call: Call) -> Reply:
    """Steps advance."""
    trouble = call.state.trouble()
    if trouble:
        raise HttpError(503, "unhealthy", trouble)
    return reply({"status": "ok"})


async def ready(call: Call) -> Reply:
    """New requests are taken."""
    if call.state.draining:
        raise HttpError(503, "shutting_down", "the server is shutting down", headers={"Retry-After": "5"})
    return await health(call)


async def version(call: Call) -> Reply:
    return reply({"version": __version__})


async def load(call: Call) -> Reply:
    stats = [s.llm.model.engine.stats for s in call.state.served.values()]
    return reply({
        "server_load": len(call.state.tasks),
        "running": sum(s.running for s in stats),
        "waiting": sum(s.waiting for s in stats),
        "kv_blocks_used": sum(s.blocks_used for s in stats),
        "kv_blocks_total": sum(s.blocks_total for s in stats),
    })  # fmt: skip


async def metrics(call: Call) -> Reply:
    return Reply(call.state.metrics.text(), content_type=CONTENT_TYPE)


async def tokenize(call: Call) -> Reply:
    request = read(parse(call.body), TokenizeRequest)
    served = call.state.find(request.model)
    model = served.llm.model
    if (request.prompt is None) == (request.messages is None):
        raise RequestError("give either prompt or messages", "prompt")
    if request.messages is not None:
        prompt = await render_chat(
            served.llm,
            request.messages,
            tools=request.tools,
            add_generation_prompt=request.add_generation_prompt is not False,
            continue_final_message=bool(request.continue_final_message),
            kwargs=request.chat_template_kwargs,
        )
    else:
        (prompt,) = await encode_prompts(
            served.llm, [request.prompt or ""], add_special_tokens=request.add_special_tokens is not False
        )
    found: dict[str, Any] = {
        "count": len(prompt.token_ids),
        "max_model_len": model.max_model_len,
        "tokens": prompt.token_ids,
        "token_strs": None,
    }
    if request.return_token_strs and model.tokenizer is not None:
        found["token_strs"] = [model.tokenizer.token_text(t) for t in prompt.token_ids]
    return reply(found)


async def detokenize(call: Call) -> Reply:
    request = read(parse(call.body), DetokenizeRequest)
    served = call.state.find(request.model)
    tokenizer = served.llm.frontend.require_tokenizer("/detokenize")
    size = served.llm.model.architecture.vocab_size
    bad = next((t for t in request.tokens if not 0 <= t < size), None)
    if bad is not None:
        raise RequestError(f"tokens: id {bad} is outside the vocabulary of {size}", "tokens")
    return reply({"prompt": tokenizer.decode(request.tokens, bool(request.skip_special_tokens))})


def dialect() -> Dialect:
    endpoints = [
        Endpoint("GET", "/v1/models", list_models),
        Endpoint("GET", "/v1/models/{name:path}", one_model),
        Endpoint("POST", "/v1/completions", completions),
        Endpoint("POST", "/v1/chat/completions", chat),
    ]
    return Dialect("openai", tuple(endpoints), error_body, ("/v1/",))


def operations() -> Dialect:
    """Liveness, metrics and tokens: always on."""
    public = [
        Endpoint("GET", path, handler, public=True)
        for path, handler in (
            ("/health", health), ("/live", live), ("/livez", live), ("/ping", live), ("/ready", ready),
            ("/readyz", ready), ("/healthz", health),
        )
    ]  # fmt: skip
    endpoints = [
        *public,
        Endpoint("GET", "/version", version),
        Endpoint("GET", "/load", load),
        Endpoint("GET", "/metrics", metrics),
        Endpoint("POST", "/tokenize", tokenize),
        Endpoint("POST", "/detokenize", detokenize),
    ]
    return Dialect("operations", tuple(endpoints), error_body)
