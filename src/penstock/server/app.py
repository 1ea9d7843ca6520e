"""The ASGI application: the dialects that are switched on, behind one edge."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp

from penstock.async_llm import AsyncLLM
from penstock.server import openapi
from penstock.server.edge import Edge
from penstock.server.http import Dialect
from penstock.server.options import ServerOptions
from penstock.server.state import State, make_state


def create_app(models: Mapping[str, AsyncLLM], options: ServerOptions | None = None) -> ASGIApp:
    """An application that serves ``models`` by name. The models stay the caller's to close."""
    return build(make_state(models, options or ServerOptions()))


def build(state: State) -> ASGIApp:
    spoken = dialects(state.options)
    app: ASGIApp = Edge(state, [*spoken, openapi.dialect(spoken, bool(state.keys))])
    origins = state.options.allowed_origins
    if origins:
        from starlette.middleware.cors import CORSMiddleware

        app = CORSMiddleware(
            app,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["x-request-id"],
        )
    return app


def dialects(options: ServerOptions) -> list[Dialect]:
    """Those that are switched on. Where two claim a path, the first has it."""
    from penstock.server import adapters, models, operations, root
    from penstock.server.anthropic import routes as anthropic
    from penstock.server.llama_server import routes as llama_server
    from penstock.server.ollama import routes as ollama
    from penstock.server.openai import routes as openai
    from penstock.server.page import routes as page
    from penstock.server.tgi import routes as tgi

    every = {
        "openai": openai.dialect,
        "tgi": tgi.dialect,
        "anthropic": anthropic.dialect,
        "ollama": ollama.dialect,
        "llama_server": llama_server.dialect,
        "page": page.dialect,
    }
    chosen = [make() for name, make in every.items() if name not in options.disabled_dialects]
    return [operations.dialect(), *chosen, adapters.dialect(), models.dialect(), root.dialect(options)]
