"""What comes in at ``/completion``."""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.server import llama_cpp


class CompletionRequest(msgspec.Struct, kw_only=True):
    prompt: str | list[Any] | None = None
    model: str | None = None
    n_predict: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: list[str] | None = None
    ignore_eos: bool | None = None
    logit_bias: list[tuple[int, float | bool]] | dict[str, float] | None = None
    n_probs: int | None = None
    stream: bool | None = None
    return_tokens: bool | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None


REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    **llama_cpp.REFUSED,
    "image_data": (([],), "is not available: these models read text"),
}
