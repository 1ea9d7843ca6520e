"""llama-server's metrics under its names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from penstock.server.exposition import plain

if TYPE_CHECKING:
    from penstock.async_llm import AsyncLLM
    from penstock.server.metrics import ModelMetrics

DESCRIBED = {
    "llamacpp:prompt_tokens_total": ("counter", "prompt tokens computed"),
    "llamacpp:prompt_seconds_total": ("counter", "seconds from first step to first token, of all requests"),
    "llamacpp:tokens_predicted_total": ("counter", "tokens generated"),
    "llamacpp:tokens_predicted_seconds_total": ("counter", "seconds from first token to last, of all requests"),
    "llamacpp:n_decode_total": ("counter", "steps run"),
    "llamacpp:prompt_tokens_seconds": ("gauge", "prompt tokens a second of a request, on average"),
    "llamacpp:predicted_tokens_seconds": ("gauge", "tokens a second of a request, on average"),
    "llamacpp:requests_processing": ("gauge", "sequences in the step"),
    "llamacpp:requests_deferred": ("gauge", "sequences in the queue"),
    "llamacpp:n_busy_slots_per_decode": ("gauge", "tokens generated a step, on average"),
    "llamacpp:kv_cache_usage_ratio": ("gauge", "share of KV blocks that requests hold, 0 to 1"),
}


def text(models: Mapping[str, tuple[AsyncLLM, ModelMetrics]]) -> bytes:
    """Lines of all ``models``, labelled ``model_name``."""
    return "".join(plain(DESCRIBED, {name: _values(llm, mine) for name, (llm, mine) in models.items()})).encode()


def _values(llm: AsyncLLM, mine: ModelMetrics) -> dict[str, float]:
    stats = llm.model.engine.stats
    prefill, decode = (mine.histograms[f"request_{phase}_time_seconds"].sum for phase in ("prefill", "decode"))
    values = (
        stats.prompt_tokens,
        prefill,
        stats.generation_tokens,
        decode,
        stats.steps,
        stats.prompt_tokens / prefill if prefill else 0.0,
        stats.generation_tokens / decode if decode else 0.0,
        stats.running,
        stats.waiting,
        stats.generation_tokens / stats.steps if stats.steps else 0.0,
        stats.blocks_used / max(1, stats.blocks_total),
    )
    return dict(zip(DESCRIBED, values, strict=True))
