"""Checking of chat messages, and their plain form for templates."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from penstock.errors import RequestError, nearest

ROLES = (
    "system", "user", "assistant", "tool", "developer", "function", "observation", "ipython", "context", "model",
)  # fmt: skip
MESSAGES_LIMIT = 100_000


def check_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Copies of ``messages`` whose content is a string or ``None``; tool calls' arguments are parsed from JSON.

    Raises RequestError (``param="messages"``) for an unknown role, content that is no text, or no message at all.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)) or not messages:
        raise _wrong("messages must be a list with at least one message")
    if len(messages) > MESSAGES_LIMIT:
        raise _wrong(f"{len(messages)} messages are more than {MESSAGES_LIMIT}")
    return [_check(message, index) for index, message in enumerate(messages)]


def _check(message: Mapping[str, Any], index: int) -> dict[str, Any]:
    where = f"messages[{index}]"
    if not isinstance(message, Mapping):
        raise _wrong(f"{where} is not an object with 'role' and 'content'")
    role = message.get("role")
    if role not in ROLES:
        raise _wrong(f"{where}: role {role!r} is not one of {', '.join(ROLES)}{nearest(str(role), ROLES)}")
    plain = dict(message)
    calls = message.get("tool_calls")
    content = message.get("content")
    if content is None and role != "assistant" and not calls:
        raise _wrong(f"{where}: 'content' is missing")
    plain["content"] = None if content is None else _text(content, where)
    if calls is not None:
        plain["tool_calls"] = [_call(call, where) for call in _list(calls, f"{where}.tool_calls")]
    return plain


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for part in _list(content, f"{where}.content"):
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise _wrong(f"{where}: a content part of type {kind!r}; only parts of type 'text' are understood")
    return "\n".join(texts)


def _call(call: Any, where: str) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        raise _wrong(f"{where}.tool_calls: a call is not an object")
    plain = dict(call)
    function = call.get("function")
    if isinstance(function, Mapping):
        plain["function"] = {**function, "arguments": _arguments(function.get("arguments"))}
    return plain


def _arguments(value: Any) -> Any:
    """Clients send arguments as JSON text, templates want the object; text that is no JSON stays text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes, Mapping)):
        raise _wrong(f"{where} is neither text nor a list")
    return list(value)


def _wrong(message: str) -> RequestError:
    return RequestError(message, param="messages")
