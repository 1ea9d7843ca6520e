"""What comes in at ``/completion``."""

from __future__ import annotations

from typing import Any

import msgspec


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
    n_keep: int | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None


HARMLESS = frozenset({
    "cache_prompt", "id_slot", "slot_id", "timings_per_token", "t_max_prompt_ms", "repeat_last_n", "penalize_nl",
    "min_keep", "return_progress", "api_key", "n_ctx",
})  # fmt: skip
_NOT_YET = "is not available in this version: leave it out"
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "mirostat": ((0,), _NOT_YET),
    "dynatemp_range": ((0, 0.0), _NOT_YET),
    "dry_multiplier": ((0, 0.0), _NOT_YET),
    "xtc_probability": ((0, 0.0), _NOT_YET),
    "samplers": ((), "is not available: the order of samplers is fixed"),
    "image_data": (([],), "is not available: these models read text"),
    "t_max_predict_ms": ((0,), _NOT_YET),
    "n_indent": ((0,), _NOT_YET),
    "lora": (([],), _NOT_YET),
    "response_fields": (([],), _NOT_YET),
    "post_sampling_probs": ((False,), _NOT_YET),
    **dict.fromkeys(
        ("mirostat_tau", "mirostat_eta", "dynatemp_exponent", "dry_base", "dry_allowed_length"),
        ((5.0, 0.1, 1.0, 1.75, 2), _NOT_YET),
    ),
    **dict.fromkeys(
        ("dry_penalty_last_n", "dry_sequence_breakers", "xtc_threshold", "tfs_z"), ((-1, 0, 0.1, 1, 1.0), _NOT_YET)
    ),
}
