"""Prometheus metrics: the engine's counters read at scrape time, histograms filled when a request ends.

Each is shown twice, as ``penstock_*`` and under vLLM's name, which dashboards know; what TGI and llama-server
have too also under theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from penstock.server.histogram import COUNTS, TIMES, Histogram
from penstock.server.llama_server.metrics import text as llama_text
from penstock.server.tgi.metrics import text as tgi_text
from penstock.types import RequestMetrics

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from penstock.async_llm import AsyncLLM

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
HISTOGRAMS = {
    "time_to_first_token_seconds": ("seconds from arrival to the first token", TIMES),
    "inter_token_latency_seconds": ("seconds between two tokens of an answer", TIMES),
    "request_time_per_output_token_seconds": ("mean seconds per token after the first", TIMES),
    "e2e_request_latency_seconds": ("seconds from arrival to the end", TIMES),
    "request_queue_time_seconds": ("seconds from arrival to the first step", TIMES),
    "request_prefill_time_seconds": ("seconds from the first step to the first token", TIMES),
    "request_decode_time_seconds": ("seconds from the first token to the last", TIMES),
    "request_inference_time_seconds": ("seconds from the first step to the last token", TIMES),
    "request_prompt_tokens": ("tokens of the prompt", COUNTS),
    "request_params_max_tokens": ("tokens that an answer may have", COUNTS),
    "request_validation_time_seconds": ("seconds to check and encode the prompts of an HTTP request", TIMES),
    "request_generation_tokens": ("tokens of all answers", COUNTS),
}


class ModelMetrics:
    """Histograms of one model's requests."""

    def __init__(self) -> None:
        self.histograms = {name: Histogram(bounds) for name, (_, bounds) in HISTOGRAMS.items()}
        self.received = 0
        self.failed = 0

    def begun(self, requests: int, validated: float | None) -> None:
        """Account for requests that go to the engine, seconds after their HTTP request came."""
        self.received += requests
        if validated is not None:
            self.histograms["request_validation_time_seconds"].observe(validated)

    def finished(self, times: RequestMetrics, prompt_tokens: int, generated: int, max_tokens: int) -> None:
        """Account for a request that ended by itself."""
        see = {name: h.observe for name, h in self.histograms.items()}
        see["request_prompt_tokens"](prompt_tokens)
        see["request_generation_tokens"](generated)
        see["request_params_max_tokens"](max_tokens)
        first, last, scheduled = times.first_token_time, times.last_token_time, times.scheduled_time
        if first is None or scheduled is None:
            return
        last = first if last is None else last
        see["time_to_first_token_seconds"](first - times.arrival_time)
        see["e2e_request_latency_seconds"](last - times.arrival_time)
        see["request_queue_time_seconds"](scheduled - times.arrival_time)
        see["request_prefill_time_seconds"](first - scheduled)
        see["request_decode_time_seconds"](last - first)
        see["request_inference_time_seconds"](last - scheduled)
        gaps = times.inter_token_latencies
        for gap in gaps:
            see["inter_token_latency_seconds"](gap)
        if gaps:
            see["request_time_per_output_token_seconds"](sum(gaps) / len(gaps))


class Metrics:
    """Everything that ``/metrics`` shows."""

    def __init__(self) -> None:
        self.models: dict[str, tuple[AsyncLLM, ModelMetrics]] = {}
        self.responses: Counter[tuple[str, int]] = Counter()
        self.disconnects = 0
        self.restarts: Counter[str] = Counter()
        self.rejections: Counter[str] = Counter()

    def add(self, name: str, llm: AsyncLLM) -> ModelMetrics:
        metrics = ModelMetrics()
        self.models[name] = (llm, metrics)
        return metrics

    def text(self) -> bytes:
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry) + tgi_text(self.models) + llama_text(self.models)

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus_client."""
        from prometheus_client.core import CounterMetricFamily

        yield from self._engine()
        yield from self._histograms()
        answers = CounterMetricFamily("penstock_http_responses", "answers by path and status", labels=["path", "code"])
        for (path, code), count in sorted(self.responses.items()):
            answers.add_metric([path, str(code)], count)
        yield answers
        gone = CounterMetricFamily("penstock_client_disconnects", "clients that left before their answer ended")
        gone.add_metric([], self.disconnects)
        yield gone
        restarts = CounterMetricFamily("penstock_engine_restarts", "engines loaded again", labels=["model_name"])
        for model, count in sorted(self.restarts.items()):
            restarts.add_metric([model], count)
        yield restarts
        for prefix in ("penstock_", "vllm:"):
            refused = CounterMetricFamily(prefix + "admission_rejections", "requests not taken", labels=["reason"])
            for reason, count in sorted(self.rejections.items()):
                refused.add_metric([reason], count)
            yield refused

    def _engine(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for prefix in ("penstock_", "vllm:"):
            for name, help_text, is_counter in _ENGINE:
                family = CounterMetricFamily if is_counter else GaugeMetricFamily
                metric = family(prefix + name, help_text, labels=["model_name"])
                for model, (llm, _) in self.models.items():
                    metric.add_metric([model], _engine_values(llm)[name])
                yield metric
            done = CounterMetricFamily(
                prefix + "request_success", "answers that ended, by reason", labels=["model_name", "finished_reason"]
            )
            for model, (llm, _) in self.models.items():
                for reason in ("stop", "length", "abort", "error", "repetition"):
                    done.add_metric([model, reason], llm.model.engine.stats.finished.get(reason, 0))
            yield done
            yield from self._steps(prefix)
            info = GaugeMetricFamily(
                prefix + "cache_config_info", "the KV cache", labels=["model_name", "block_size", "num_gpu_blocks"]
            )
            for model, (llm, _) in self.models.items():
                engine = llm.model.engine
                info.add_metric([model, str(engine.block_size), str(engine.stats.blocks_total)], 1)
            yield info

    def _steps(self, prefix: str) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily

        sizes = HistogramMetricFamily(prefix + "iteration_tokens_total", "tokens of a step", labels=["model_name"])
        waiting = GaugeMetricFamily(
            prefix + "num_requests_waiting_by_reason", "sequences in the queue", labels=["model_name", "reason"]
        )
        for model, (llm, _) in self.models.items():
            stats, total, buckets = llm.model.engine.stats, 0, []
            for power, count in enumerate(stats.step_sizes[:-1]):
                total += count
                buckets.append((str(float(1 << power)), float(total)))
            sizes.add_metric([model], [*buckets, ("+Inf", float(total + stats.step_sizes[-1]))], stats.step_tokens)
            waiting.add_metric([model, "capacity"], stats.waiting)
        yield sizes
        yield waiting

    def _histograms(self) -> Iterator[Metric]:
        from prometheus_client.core import HistogramMetricFamily

        for prefix in ("penstock_", "vllm:"):
            for name, (help_text, _) in HISTOGRAMS.items():
                metric = HistogramMetricFamily(prefix + name, help_text, labels=["model_name"])
                for model, (_, mine) in self.models.items():
                    histogram = mine.histograms[name]
                    metric.add_metric([model], histogram.buckets(), histogram.sum)
                yield metric


_ENGINE = (
    ("num_requests_running", "sequences in the step", False),
    ("num_requests_waiting", "sequences in the queue", False),
    ("kv_cache_usage_perc", "share of KV blocks that requests hold, 0 to 1", False),
    ("kv_blocks_used", "KV blocks that requests hold", False),
    ("kv_blocks_cached", "free KV blocks that hold a known prefix", False),
    ("kv_blocks_total", "KV blocks there are", False),
    ("seconds_since_step", "seconds since a step ended while there is work; 0 when idle", False),
    ("prompt_tokens", "prompt tokens computed", True),
    ("generation_tokens", "tokens generated", True),
    ("num_preemptions", "sequences put back for lack of KV blocks", True),
    ("prefix_cache_queries", "prompt tokens looked up in the prefix cache", True),
    ("prefix_cache_hits", "prompt tokens found there", True),
    ("prompt_tokens_cached", "the same, as vLLM counts it too", True),
    ("steps", "steps run", True),
)


def _engine_values(llm: AsyncLLM) -> Mapping[str, float]:
    stats = llm.model.engine.stats
    return {
        "num_requests_running": stats.running,
        "num_requests_waiting": stats.waiting,
        "kv_cache_usage_perc": stats.blocks_used / max(1, stats.blocks_total),
        "kv_blocks_used": stats.blocks_used,
        "kv_blocks_cached": stats.blocks_cached,
        "kv_blocks_total": stats.blocks_total,
        "seconds_since_step": llm.stalled_for,
        "prompt_tokens": stats.prompt_tokens,
        "generation_tokens": stats.generation_tokens,
        "num_preemptions": stats.preemptions,
        "prefix_cache_queries": stats.prefix_queries,
        "prefix_cache_hits": stats.prefix_hits,
        "prompt_tokens_cached": stats.prefix_hits,
        "steps": stats.steps,
    }
