"""From a request's grammar to what the engine takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.errors import RequestError
from penstock.server.state import Served, State
from penstock.server.structured.compiler import Compiler
from penstock.server.structured.grammar import Grammar, for_calls
from penstock.server.tools.check import Offer

UNAVAILABLE = "asks for constrained output, which is not available in this version: leave it out"


async def engine_options(
    state: State,
    served: Served,
    grammar: Grammar | None,
    offer: Offer | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    parallel: bool = True,
) -> dict[str, Any]:
    """Options for the engine that make the answer what ``grammar`` says, or a call where ``offer`` demands one.

    Raises ``RequestError`` for a grammar that cannot be honoured.
    """
    if offer is not None and offer.must:
        if grammar is not None:
            raise RequestError(f"{grammar.param} and a forced tool_choice exclude each other", grammar.param)
        grammar = for_calls(tools or (), offer.only, parallel)
    if grammar is None:
        return {}
    engine = served.llm.model.engine
    if "constraint" not in inspect.signature(engine.add).parameters:
        param = "tool_choice" if offer is not None and offer.must else grammar.param
        raise RequestError(f"{param} {UNAVAILABLE}", param)
    key = f"compiler:{id(served.llm)}"
    compiler: Compiler = state.shared.get(key) or state.shared.setdefault(key, Compiler(served.llm.model))
    return {"constraint": await compiler.constraint(grammar)}
