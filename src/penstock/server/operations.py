"""What operators ask for, whatever the dialect: liveness, readiness, load, metrics, tokens."""

from __future__ import annotations

from penstock._version import __version__
from penstock.server.errors import HttpError
from penstock.server.http import Call, Dialect, Endpoint, Reply, reply
from penstock.server.metrics import CONTENT_TYPE
from penstock.server.openai.errors import error
from penstock.server.openai.schema import DetokenizeRequest, TokenizeRequest
from penstock.server.tokens import detokenize, tokenize


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


def dialect() -> Dialect:
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
        Endpoint("GET", "/version", version, always=True),
        Endpoint("GET", "/load", load, always=True),
        Endpoint("GET", "/metrics", metrics, always=True),
        Endpoint("POST", "/tokenize", tokenize, body=TokenizeRequest),
        Endpoint("POST", "/detokenize", detokenize, body=DetokenizeRequest),
    ]
    return Dialect("operations", tuple(endpoints), error)
