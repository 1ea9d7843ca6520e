"""Pieces of an answer as OpenAI's messages and deltas."""

from __future__ import annotations

from typing import Any

from penstock.server.reading import Reading
from penstock.server.tools.pieces import Piece, Reasoning, Text, ToolCall
from penstock.types import CompletionOutput


def whole(reading: Reading, text: str, before: str = "") -> tuple[dict[str, Any], bool]:
    """The message of a whole answer that goes on from ``before``, and whether it calls tools."""
    parser = reading.parser()
    pieces = [*parser.feed(text), *parser.finish()]
    content = before + "".join(p.text for p in pieces if isinstance(p, Text))
    calls = [tool_call(p) for p in pieces if isinstance(p, ToolCall)]
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None, "annotations": []}
    if thoughts := "".join(p.text for p in pieces if isinstance(p, Reasoning)):
        message["reasoning"] = message["reasoning_content"] = thoughts
    if calls:
        message["content"] = content or None
        message["tool_calls"] = calls
    return message, bool(calls)


def tool_call(call: ToolCall, arguments: str | None = None) -> dict[str, Any]:
    text = call.arguments if arguments is None else arguments
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": text}}


def deltas(pieces: list[Piece], count: int) -> list[dict[str, Any]]:
    """Pieces as deltas; ``count`` calls were told before. A call comes as its name, then its arguments."""
    found: list[dict[str, Any]] = []
    for piece in pieces:
        if isinstance(piece, Text):
            found.append({"content": piece.text})
        elif isinstance(piece, Reasoning):
            found.append({"reasoning": piece.text, "reasoning_content": piece.text})
        else:
            found.append({"tool_calls": [{"index": count, **tool_call(piece, "")}]})
            found.append({"tool_calls": [{"index": count, "function": {"arguments": piece.arguments}}]})
            count += 1
    return found


def finish_reason(answer: CompletionOutput, called: bool) -> str | None:
    return "tool_calls" if called and answer.finish_reason == "stop" else answer.finish_reason
