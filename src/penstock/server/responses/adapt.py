"""Items of ``/v1/responses`` to messages and functions, and pieces of an answer to items and events."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from penstock.errors import RequestError, nearest
from penstock.server.openai.adapt import chat_logprobs, top_logprobs
from penstock.server.responses.schema import INCLUDES, LOGPROBS, ResponsesRequest
from penstock.server.tools.pieces import Piece, Reasoning, Text, ToolCall
from penstock.text.tokenizer import Tokenizer

Item = dict[str, Any]
TEXTS = ("input_text", "output_text", "text")


def messages(items: str | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Input items as chat messages. Raises ``RequestError`` for an item that is no text or function call."""
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    found: list[dict[str, Any]] = []
    for i, item in enumerate(items):
        kind = item.get("type", "message")
        if kind == "message":
            found.append({"role": item.get("role"), "content": _content(item.get("content"), f"input[{i}]")})
        elif kind == "function_call":
            if not isinstance(item.get("name"), str) or not isinstance(item.get("arguments"), str):
                raise RequestError(f"input[{i}]: a function_call needs a name and arguments, both text", "input")
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            if found and found[-1]["role"] == "assistant":
                found[-1].setdefault("tool_calls", []).append(call)
            else:
                found.append({"role": "assistant", "content": None, "tool_calls": [call]})
        elif kind == "function_call_output":
            output = _content(item.get("output"), f"input[{i}].output")
            found.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": output})
        elif kind != "reasoning":
            raise RequestError(f"input[{i}]: items of type {str(kind)[:64]!r} are not understood", "input")
    return found


def _content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    parts = []
    for part in content if isinstance(content, list) else [None]:
        if not isinstance(part, Mapping) or part.get("type") not in TEXTS or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise RequestError(
                f"{where}: only content of type input_text is understood, got {str(kind)[:64]!r}", "input"
            )
        parts.append(part["text"])
    return "\n".join(parts)


def functions(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """The flat tools of this API as the nested ones of chats."""
    found = []
    for i, tool in enumerate(tools or ()):
        if tool.get("type") != "function":
            raise RequestError(f"tools[{i}]: only tools of type 'function' are available here", "tools")
        function = {k: tool[k] for k in ("name", "description", "parameters", "strict") if tool.get(k) is not None}
        found.append({"type": "function", "function": function})
    return found


def wanted_logprobs(request: ResponsesRequest) -> int | None:
    """How many of the likeliest tokens are wanted at each place; None without log probabilities."""
    for name in request.include or ():
        if name not in INCLUDES:
            raise RequestError(f"include: {name[:64]!r} is not known{nearest(name[:64], INCLUDES)}", "include")
    top = top_logprobs(request.top_logprobs)
    return top if top or LOGPROBS in (request.include or ()) else None


class Builder:
    """Grows the output items from pieces, and gives the events that tell of it. ``top``: of scored tokens' others."""

    def __init__(self, tokenizer: Tokenizer | None, top: int) -> None:
        self._tokenizer, self._top = tokenizer, top
        self.items: list[Item] = []
        self._open: type[Piece] | None = None
        self._sequence = 0

    def event(self, kind: str, **fields: Any) -> dict[str, Any]:
        found = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return found

    def add(self, piece: Piece) -> Iterator[dict[str, Any]]:
        if isinstance(piece, ToolCall):
            yield from self.close()
            yield from self._call(piece)
            return
        if self._open is not type(piece):
            yield from self.close()
            yield from self._begin(type(piece))
        item = self.items[-1]
        part = item["content"][0]
        part["text"] += piece.text
        if isinstance(piece, Text):
            tokens, found = [t for t, _ in piece.scores], [s for _, s in piece.scores]
            scores = chat_logprobs(tokens, found, self._top, self._tokenizer, as_ids=False)["content"]
            part["logprobs"] = part["logprobs"] + scores
            yield self.event("response.output_text.delta", **self._place(), delta=piece.text, logprobs=scores)
        else:
            yield self.event("response.reasoning_text.delta", **self._place(), delta=piece.text)

    def _begin(self, kind: type[Piece]) -> Iterator[dict[str, Any]]:
        self._open = kind
        if kind is Reasoning:
            item: Item = {"id": _id("rs"), "type": "reasoning", "summary": [], "content": [], "status": "in_progress"}
            part: Item = {"type": "reasoning_text", "text": ""}
        else:
            item = {"id": _id("msg"), "type": "message", "role": "assistant", "status": "in_progress", "content": []}
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self.items.append(item)
        yield self.event("response.output_item.added", output_index=len(self.items) - 1, item=_copy(item))
        item["content"].append(part)
        yield self.event("response.content_part.added", **self._place(), part=dict(part))

    def close(self, status: str = "completed") -> Iterator[dict[str, Any]]:
        """End the item that is open, if one is."""
        if self._open is None:
            return
        item = self.items[-1]
        part, item["status"] = item["content"][0], status
        if self._open is Text:
            yield self.event("response.output_text.done", **self._place(), text=part["text"], logprobs=part["logprobs"])
        else:
            yield self.event("response.reasoning_text.done", **self._place(), text=part["text"])
        self._open = None
        yield self.event("response.content_part.done", **self._place(), part=dict(part))
        yield self.event("response.output_item.done", output_index=len(self.items) - 1, item=_copy(item))

    def _call(self, call: ToolCall) -> Iterator[dict[str, Any]]:
        item: Item = {
            "id": _id("fc"), "type": "function_call", "call_id": call.id, "name": call.name, "arguments": "",
            "status": "in_progress",
        }  # fmt: skip
        self.items.append(item)
        at = len(self.items) - 1
        yield self.event("response.output_item.added", output_index=at, item=dict(item))
        item["arguments"], item["status"] = call.arguments, "completed"
        place = {"item_id": item["id"], "output_index": at}
        yield self.event("response.function_call_arguments.delta", **place, delta=call.arguments)
        yield self.event("response.function_call_arguments.done", **place, arguments=call.arguments, name=call.name)
        yield self.event("response.output_item.done", output_index=at, item=dict(item))

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1, "content_index": 0}


def answer_message(items: Sequence[Item]) -> dict[str, Any]:
    """Output items as the assistant's message of the next turn."""
    text = "".join(i["content"][0]["text"] for i in items if i["type"] == "message")
    calls = [
        {"id": i["call_id"], "type": "function", "function": {"name": i["name"], "arguments": i["arguments"]}}
        for i in items
        if i["type"] == "function_call"
    ]
    return {"role": "assistant", "content": text or None, **({"tool_calls": calls} if calls else {})}


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


def _copy(item: Item) -> Item:
    return {**item, "content": [dict(part) for part in item["content"]]}
