"""What comes in, in TGI's dialect. ``None`` is "not given"; for ``max_new_tokens`` the two differ."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

DEFAULT_NEW_TOKENS = 100


class Parameters(msgspec.Struct, kw_only=True):
    adapter_id: str | None = None
    best_of: int | None = None
    decoder_input_details: bool | None = None
    details: bool | None = None
    do_sample: bool | None = None
    frequency_penalty: float | None = None
    grammar: dict[str, Any] | None = None
    length_penalty: float | None = None
    max_new_tokens: int | UnsetType | None = UNSET
    num_beams: int | None = None
    repetition_penalty: float | None = None
    return_full_text: bool | None = None
    seed: int | None = None
    stop: list[str] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_n_tokens: int | None = None
    top_p: float | None = None
    truncate: int | None = None
    typical_p: float | None = None
    watermark: bool | None = None


class GenerateRequest(msgspec.Struct, kw_only=True):
    inputs: str
    parameters: dict[str, Any] | None = None
    stream: bool | None = None
    model: str | None = None


class VertexRequest(msgspec.Struct, kw_only=True):
    instances: list[dict[str, Any]]


class ChatTokenizeRequest(msgspec.Struct, kw_only=True):
    messages: list[dict[str, Any]]
    model: str | None = None
    tools: list[dict[str, Any]] | None = None


HARMLESS = frozenset({"options", "user"})
HARMLESS_PARAMETERS = frozenset({
    "decode_input_details",  # as many scripts misspell it; TGI passes over it
    "use_cache", "wait_for_model", "return_text", "return_tensors", "clean_up_tokenization_spaces",
})  # fmt: skip
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "stop_sequences": (([],), "is called stop here"),
}
