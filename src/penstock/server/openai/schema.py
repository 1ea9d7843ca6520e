"""What comes in, in OpenAI's dialect and with vLLM's additions. ``None`` is "not given"."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from penstock.server import llama_cpp


class StreamOptions(msgspec.Struct, kw_only=True):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class Generation(msgspec.Struct, kw_only=True):
    """Fields that completions and chats share."""

    model: str | None = None
    n: int | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    repeat_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    logit_bias: dict[str, float] | None = None
    bad_words: list[str] | None = None
    allowed_token_ids: list[int] | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    use_beam_search: bool | None = None
    length_penalty: float | None = None
    early_stopping: bool | str | None = None
    prompt_logprobs: int | None = None
    logprob_token_ids: list[int] | None = None
    repetition_detection: dict[str, Any] | None = None
    watermark: bool | None = None
    truncate_prompt_tokens: int | None = None
    truncation_side: Literal["left", "right"] | None = None
    add_special_tokens: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    priority: int | None = None
    cache_salt: str | None = None
    request_id: str | None = None
    echo: bool | None = None
    return_metrics: bool | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    guided_json: str | dict[str, Any] | bool | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_json_object: bool | None = None
    guided_whitespace_pattern: str | None = None


class CompletionRequest(Generation, kw_only=True):
    prompt: str | list[str | int | list[int]] | None = None
    best_of: int | None = None
    logprobs: int | None = None


class ChatRequest(Generation, kw_only=True):
    messages: list[dict[str, Any]]
    best_of: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    documents: list[dict[str, Any]] | None = None
    reasoning_effort: str | None = None
    include_reasoning: bool | None = None
    thinking_token_budget: int | None = None
    return_prompt_text: bool | None = None


class TokenizeRequest(msgspec.Struct, kw_only=True):
    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    tokens: list[int]
    model: str | None = None
    skip_special_tokens: bool | None = None


HARMLESS = frozenset({
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "prompt_cache_options", "moderation", "prediction", "session_id", "mm_processor_kwargs",
    "guided_decoding_backend", *llama_cpp.HARMLESS,
})  # fmt: skip
"""Names that clients send and that cannot change the text of an answer here."""

_NOT_YET = "is not available in this version: leave it out"
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    **llama_cpp.REFUSED,
    "suffix": (("",), "asks for text in the middle, which these models are not trained for: leave it out"),
    "prompt_embeds": ((), "is not accepted: requests bring text or token ids"),
    "chat_template": ((), "is not accepted from requests: give it to the server with --chat-template"),
    "chat_template_content_format": (("auto",), "is chosen by the server: leave it out"),
    "audio": ((), "is not available: these models write text"),
    "modalities": ((["text"],), "can only be ['text']: these models write text"),
    "tool_prompt": (("",), "is not accepted: the model's template shows tools as it was trained to see them"),
    "guideline": ((), "is not available: say it in a message"),
    "functions": (([],), "is an old name: use tools"),
    "function_call": (("none", "auto"), "is an old name: use tool_choice"),
    "web_search_options": ((), "is not available: this server searches nothing"),
    "verbosity": (("medium",), "is not understood by these models: leave it out"),
    "thinking_token_budget": ((), "belongs to /v1/chat/completions: leave it out"),
    "vllm_xargs": (({},), _NOT_YET),
    "kv_transfer_params": ((), _NOT_YET),
    "logits_processors": (([],), "is not accepted: requests bring no code"),
    "return_prompt_text": ((False,), "belongs to /v1/chat/completions: leave it out, or use echo"),
}
"""Names that are known and not available: the values that change nothing, and the reason."""
