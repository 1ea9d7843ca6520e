"""What comes in at ``/v1/responses``."""

from __future__ import annotations

from typing import Any

import msgspec


class ResponsesRequest(msgspec.Struct, kw_only=True):
    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    logit_bias: dict[str, float] | None = None
    bad_words: list[str] | None = None
    allowed_token_ids: list[int] | None = None
    skip_special_tokens: bool | None = None
    watermark: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None
    truncation: str | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None


SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "typical_p", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "seed", "stop", "stop_token_ids", "include_stop_str_in_output", "ignore_eos", "min_tokens",
    "logit_bias", "bad_words", "allowed_token_ids", "skip_special_tokens", "watermark",
)  # fmt: skip
"""Fields with the names and meanings that chats have."""


class InputTokensRequest(msgspec.Struct, kw_only=True):
    """What of a response's request its prompt is made of."""

    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    truncation: str | None = None


LOGPROBS = "message.output_text.logprobs"
INCLUDES = (
    LOGPROBS, "reasoning.encrypted_content", "file_search_call.results", "web_search_call.results",
    "web_search_call.action.sources", "message.input_image.image_url", "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
)  # fmt: skip
"""What ``include`` may ask for; of what there never is here, there is nothing to include."""
HARMLESS = frozenset({
    "user", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options",
    "stream_options", "moderation", "max_tool_calls", "access_programs",
})  # fmt: skip
_NOT_HERE = "is not available in this version: leave it out"
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "background": ((False,), _NOT_HERE),
    "conversation": ((), "is not available: use previous_response_id"),
    "prompt": ((), _NOT_HERE),
    "image": ((), "is not available: these models write text"),
    "personality": ((), "is not available: say it in instructions"),
    "context_management": ((), _NOT_HERE),
}
