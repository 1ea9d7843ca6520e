"""What the page shows of the models and of the engine, as JSON."""

from __future__ import annotations

from typing import Any

from penstock._version import __version__
from penstock.server.histogram import Histogram
from penstock.server.state import Served, State

LATENCIES = {
    "ttft": "time_to_first_token_seconds",
    "itl": "inter_token_latency_seconds",
    "queue": "request_queue_time_seconds",
    "prefill": "request_prefill_time_seconds",
    "e2e": "e2e_request_latency_seconds",
}
SHOWN_DEFAULTS = (
    "temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "seed", "stop",
)  # fmt: skip
MAX_MAP = 8192
"""Pools of more blocks are drawn from counts alone: looking at each would keep the event loop busy."""


def info(state: State) -> dict[str, Any]:
    """What does not change while the server runs: models, their limits, and what a request gets that says nothing."""
    return {"version": __version__, "models": [_model(state, served) for served in state.served.values()]}


def _model(state: State, served: Served) -> dict[str, Any]:
    model, params = served.llm.model, state.default_params(served)
    return {
        "id": served.name,
        "max_model_len": model.max_model_len,
        "defaults": {name: getattr(params, name) for name in SHOWN_DEFAULTS},
        "facts": dict(model.resolved),
    }


def stats(state: State) -> dict[str, Any]:
    """Gauges of now and counters since start, per model."""
    return {
        "draining": state.draining,
        "trouble": state.trouble(),
        "disconnects": state.metrics.disconnects,
        "models": [_numbers(served) for served in state.served.values()],
    }


def _numbers(served: Served) -> dict[str, Any]:
    engine = served.llm.model.engine
    now = engine.stats
    return {
        "id": served.name,
        "running": now.running,
        "waiting": now.waiting,
        "max_running": engine.config.max_num_seqs,
        "block_size": engine.block_size,
        "blocks_used": now.blocks_used,
        "blocks_cached": now.blocks_cached,
        "blocks_total": now.blocks_total,
        "blocks": _blocks(served),
        "prompt_tokens": now.prompt_tokens,
        "generation_tokens": now.generation_tokens,
        "prefix_queries": now.prefix_queries,
        "prefix_hits": now.prefix_hits,
        "preemptions": now.preemptions,
        "steps": now.steps,
        "seconds_since_step": served.llm.stalled_for,
        "finished": dict(now.finished),
        "latency": {short: _histogram(served.metrics.histograms[name]) for short, name in LATENCIES.items()},
    }


def _blocks(served: Served) -> str | None:
    """A digit per block: how many hold it, up to 9. Read beside the running engine: a picture, not an account."""
    pool = served.llm.model.engine.pool
    if pool.total > MAX_MAP:
        return None
    digits = bytes(48 + min(9, pool.refs(block)) for block in range(pool.total))
    return digits.rstrip(b"0").decode("ascii")


def _histogram(histogram: Histogram) -> dict[str, Any]:
    """``counts`` has one entry more than ``bounds``: values above the last."""
    return {"bounds": histogram.bounds, "counts": list(histogram.counts), "sum": histogram.sum}
