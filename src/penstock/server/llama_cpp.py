"""Fields of llama.cpp's own, which llama-server's clients send to ``/completion`` and to OpenAI's routes alike."""

from __future__ import annotations

from typing import Any

HARMLESS = frozenset({
    "cache_prompt", "id_slot", "slot_id", "timings_per_token", "t_max_prompt_ms", "repeat_last_n", "penalize_nl",
    "min_keep", "return_progress", "api_key", "n_ctx", "n_keep", "reasoning_format",
    "mirostat_tau", "mirostat_eta", "dynatemp_exponent", "dry_base", "dry_allowed_length", "dry_penalty_last_n",
    "dry_sequence_breakers", "xtc_threshold",
})  # fmt: skip
"""``repeat_last_n``: penalties look at everything here. The rest are settings of samplers that are off."""
_NOT_YET = "is not available in this version: leave it out"
_ORDER = ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"]
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "mirostat": ((0,), _NOT_YET),
    "dynatemp_range": ((0, 0.0), _NOT_YET),
    "dry_multiplier": ((0, 0.0), _NOT_YET),
    "xtc_probability": ((0, 0.0), _NOT_YET),
    "tfs_z": ((1, 1.0), _NOT_YET),
    "top_n_sigma": ((-1, -1.0, 0, 0.0), _NOT_YET),
    "samplers": (
        ([], _ORDER, [s for s in _ORDER if s != "top_n_sigma"], _ORDER[1:], "edskypmxt", "edkypmxt", "dskypmxt"),
        "is not available: the order of samplers is fixed",
    ),
    "t_max_predict_ms": ((0, -1), _NOT_YET),
    "n_indent": ((0,), _NOT_YET),
    "lora": (([],), _NOT_YET),
    "response_fields": (([],), _NOT_YET),
    "post_sampling_probs": ((False,), _NOT_YET),
}
"""Names that are known and not available: the values that change nothing, and the reason."""
