"""What a request offers: well-formed functions, and a choice among them that can be honoured."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.errors import RequestError


@dataclass(frozen=True, slots=True)
class Offer:
    """Functions that may be called. ``must``: one has to be; ``only``: that one."""

    names: tuple[str, ...] = ()
    must: bool = False
    only: str | None = None


MAX_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


def check_tools(tools: Sequence[Mapping[str, Any]] | None, choice: str | Mapping[str, Any] | None) -> Offer:
    """What may be called, and what must be. Raises ``RequestError`` for tools that are malformed."""
    names = tuple(_name(tool, i) for i, tool in enumerate(tools or ()))
    if len(names) > MAX_TOOLS:
        raise RequestError(f"{len(names)} tools are more than {MAX_TOOLS}", "tools")
    if choice in (None, "auto"):
        return Offer(names)
    if choice == "none":
        return Offer()
    if not names:
        raise RequestError("tool_choice needs tools", "tool_choice")
    if choice == "required":
        return Offer(names, must=True)
    wanted = _named(choice)
    if wanted not in names:
        raise RequestError(f"tool_choice names '{wanted}', which is not among the tools", "tool_choice")
    return Offer(names, must=True, only=wanted)


def _name(tool: Mapping[str, Any], i: int) -> str:
    function = tool.get("function")
    if tool.get("type", "function") != "function" or not isinstance(function, Mapping):
        raise RequestError(f"tools[{i}] must be {{'type': 'function', 'function': {{…}}}}", "tools")
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RequestError(f"tools[{i}]: the function's name must be letters, digits, '_', '.', ':' or '-'", "tools")
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise RequestError(f"tools[{i}]: parameters must be a JSON schema (an object)", "tools")
    return name


def _named(choice: str | Mapping[str, Any] | None) -> str:
    if isinstance(choice, Mapping):
        function = choice.get("function", choice)
        name = function.get("name") if isinstance(function, Mapping) else None
        if isinstance(name, str):
            return name[:128]
    raise RequestError(
        "tool_choice must be 'none', 'auto', 'required' or {'type': 'function', 'function': {'name': …}}", "tool_choice"
    )
