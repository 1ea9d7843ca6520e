"""TGI's metrics: those of its names whose notion there is here, in Prometheus' text format.

What TGI counts by phase (``tgi_batch_*`` by prefill and decode) has no counterpart: a step here serves both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from penstock.server.exposition import histogram, plain

if TYPE_CHECKING:
    from penstock.async_llm import AsyncLLM
    from penstock.server.metrics import ModelMetrics

HISTOGRAMS = {
    "tgi_request_duration": "e2e_request_latency_seconds",
    "tgi_request_validation_duration": "request_validation_time_seconds",
    "tgi_request_queue_duration": "request_queue_time_seconds",
    "tgi_request_inference_duration": "request_inference_time_seconds",
    "tgi_request_mean_time_per_token_duration": "request_time_per_output_token_seconds",
    "tgi_request_input_length": "request_prompt_tokens",
    "tgi_request_generated_tokens": "request_generation_tokens",
    "tgi_request_max_new_tokens": "request_params_max_tokens",
}
"""By the name of the same histogram here."""
DESCRIBED = {
    "tgi_request_count": ("counter", "requests that went to the engine"),
    "tgi_request_success": ("counter", "requests that were answered"),
    "tgi_request_failure": ("counter", "requests that failed in the engine"),
    "tgi_queue_size": ("gauge", "sequences in the queue"),
    "tgi_batch_current_size": ("gauge", "sequences in the step"),
    "tgi_batch_current_max_tokens": ("gauge", "tokens that the KV cache holds at most"),
}


def text(models: Mapping[str, tuple[AsyncLLM, ModelMetrics]]) -> bytes:
    """Lines of all ``models``, labelled ``model_name``."""
    lines = [*plain(DESCRIBED, {name: _values(llm, mine) for name, (llm, mine) in models.items()})]
    for metric, ours in HISTOGRAMS.items():
        lines += histogram(metric, f"as penstock_{ours}", {n: m.histograms[ours] for n, (_, m) in models.items()})
    return "".join(lines).encode()


def _values(llm: AsyncLLM, mine: ModelMetrics) -> dict[str, float]:
    stats = llm.model.engine.stats
    return {
        "tgi_request_count": mine.received,
        "tgi_request_success": mine.histograms["request_prompt_tokens"].count,
        "tgi_request_failure": mine.failed,
        "tgi_queue_size": stats.waiting,
        "tgi_batch_current_size": stats.running,
        "tgi_batch_current_max_tokens": stats.blocks_total * llm.model.engine.block_size,
    }
