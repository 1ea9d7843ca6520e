"""Anthropic's blocks to chat messages and functions, and pieces of an answer to blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.errors import RequestError
from penstock.server.anthropic.schema import MessagesRequest
from penstock.server.http import encode
from penstock.server.structured import from_response_format
from penstock.server.tools.pieces import Piece, Reasoning, Text, ToolCall, read_json
from penstock.server.turn import Turn
from penstock.types import StructuredOutputs

STOPS = {"length": "max_tokens", "tool_calls": "tool_use", "stop": "end_turn"}


def messages(
    given: Sequence[Mapping[str, Any]], system: str | Sequence[Mapping[str, Any]] | None
) -> list[dict[str, Any]]:
    """Chat messages. Raises ``RequestError`` for blocks that are no text, tool use or tool result."""
    found: list[dict[str, Any]] = []
    if system:
        found.append({"role": "system", "content": _text(system, "system")})
    for i, message in enumerate(given):
        role, content, where = message.get("role"), message.get("content"), f"messages[{i}]"
        if role not in ("user", "assistant", "system"):
            raise RequestError(f"{where}: role must be 'user' or 'assistant'", "messages")
        if isinstance(content, str):
            found.append({"role": role, "content": content})
        else:
            found += _blocks(str(role), content, where)
    return found


def _blocks(role: str, blocks: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(blocks, list):
        raise RequestError(f"{where}: content must be text or a list of blocks", "messages")
    found: list[dict[str, Any]] = []
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for block in blocks:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text" and isinstance(block.get("text"), str):
            texts.append(block["text"])
        elif kind == "document":
            texts.append(_document(block.get("source"), where))
        elif kind == "tool_use" and role == "assistant":
            arguments = encode(block.get("input") or {}).decode()
            function = {"name": str(block.get("name")), "arguments": arguments}
            calls.append({"id": str(block.get("id")), "type": "function", "function": function})
        elif kind == "tool_result" and role == "user":
            text = _text(block.get("content") or "", where)
            found.append({"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": text})
        elif kind not in ("thinking", "redacted_thinking"):
            raise RequestError(f"{where}: blocks of type {str(kind)[:64]!r} are not understood", "messages")
    if calls:
        found.append({"role": role, "content": "\n".join(texts) or None, "tool_calls": calls})
    elif texts or not found:
        found.append({"role": role, "content": "\n".join(texts)})
    return found


def _document(source: Any, where: str) -> str:
    """The text of a document that brings it; none is fetched or taken apart."""
    kind = source.get("type") if isinstance(source, Mapping) else None
    if kind == "text" and isinstance(source.get("data"), str):
        return str(source["data"])
    if kind == "content":
        return _text(source.get("content"), where)
    raise RequestError(f"{where}: documents must be plain text, got {str(kind)[:64]!r}", "messages")


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    parts = []
    for block in content if isinstance(content, list) else [None]:
        if not isinstance(block, Mapping) or block.get("type") != "text" or not isinstance(block.get("text"), str):
            raise RequestError(f"{where}: only text is understood here", where.partition("[")[0])
        parts.append(block["text"])
    return "\n".join(parts)


def functions(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    found = []
    for i, tool in enumerate(tools or ()):
        if tool.get("type", "custom") not in ("custom", None):
            raise RequestError(f"tools[{i}]: only tools of your own are available here", "tools")
        function = {
            "name": tool.get("name"),
            "description": tool.get("description"),
            "parameters": tool.get("input_schema"),
        }
        found.append({"type": "function", "function": {k: v for k, v in function.items() if v is not None}})
    return found


def grammar(config: Mapping[str, Any] | None, old: Mapping[str, Any] | None) -> StructuredOutputs | None:
    """``output_config.format`` (or the older ``output_format``): a JSON schema, or nothing."""
    given = (config or {}).get("format") or old
    if given is not None and not isinstance(given, Mapping):
        raise RequestError("output_config.format must be an object", "output_config")
    return from_response_format(given, "output_config")


def thinking(given: Mapping[str, Any] | None) -> tuple[bool | None, int | None]:
    """Whether thoughts are wanted (None where nothing is said), and how many tokens of them at most."""
    if given is None:
        return None, None
    if given.get("type") not in ("enabled", "adaptive", "disabled"):
        raise RequestError("thinking.type must be enabled, adaptive or disabled", "thinking")
    budget = given.get("budget_tokens")
    if budget is not None and (not isinstance(budget, int) or isinstance(budget, bool)):
        raise RequestError("thinking.budget_tokens must be a whole number", "thinking")
    return given["type"] != "disabled", budget


def choice(given: Mapping[str, Any] | None) -> tuple[str | dict[str, Any] | None, bool]:
    """``tool_choice`` as chats have it, and whether calls may come side by side."""
    if given is None:
        return None, True
    parallel = not given.get("disable_parallel_tool_use")
    kind = given.get("type")
    if kind == "tool":
        return {"type": "function", "function": {"name": given.get("name")}}, parallel
    if kind not in ("auto", "any", "none"):
        raise RequestError("tool_choice.type must be auto, any, tool or none", "tool_choice")
    return {"auto": "auto", "any": "required", "none": "none"}[kind], parallel


def block(piece: Piece) -> dict[str, Any]:
    if isinstance(piece, Text):
        return {"type": "text", "text": piece.text}
    if isinstance(piece, Reasoning):
        return {"type": "thinking", "thinking": piece.text, "signature": ""}
    value = read_json(piece.arguments)
    return {
        "type": "tool_use",
        "id": tool_id(piece),
        "name": piece.name,
        "input": value if isinstance(value, dict) else {},
    }


def tool_id(call: ToolCall) -> str:
    return "toolu_" + call.id.removeprefix("call_")


def stop(turn: Turn, request: MessagesRequest) -> tuple[str, str | None]:
    """(stop_reason, stop_sequence). ``max_tokens`` may be more than the context has room for."""
    said = turn.stop_reason
    if turn.finish_reason == "stop" and isinstance(said, str) and said in (request.stop_sequences or ()):
        return "stop_sequence", said
    if turn.finish_reason == "length" and turn.answers.usage.completion < (request.max_tokens or 0):
        return "model_context_window_exceeded", None
    return STOPS.get(turn.finish_reason, "end_turn"), None
