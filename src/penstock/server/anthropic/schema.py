"""What comes in at ``/v1/messages``."""

from __future__ import annotations

from typing import Any

import msgspec


class MessagesRequest(msgspec.Struct, kw_only=True):
    messages: list[dict[str, Any]]
    model: str | None = None
    max_tokens: int | None = None
    system: str | list[dict[str, Any]] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    output_format: dict[str, Any] | None = None
    thread: dict[str, Any] | None = None


HARMLESS = frozenset({
    "metadata", "service_tier", "cache_control", "inference_geo", "betas", "speed", "diagnostics", "billing_policy",
    "user_profile_id", "workspace_id", "fallback_credit_token",
})  # fmt: skip
_NOT_HERE = "is not available in this version: leave it out"
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "container": ((), _NOT_HERE),
    "mcp_servers": (([],), _NOT_HERE),
    "fallbacks": (([],), _NOT_HERE),
    "compaction": ((), _NOT_HERE),
    "context_management": (
        ({}, {"edits": []}, {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}),
        _NOT_HERE,
    ),
}
