"""OpenTelemetry: a span for each request in the engine, under the trace that its caller names in ``traceparent``.

Span and attribute names are vLLM's (``llm_request``, ``gen_ai.latency.*``) beside those of the semantic conventions for
generative AI. No span holds a word of a prompt or an answer. Spans leave in a thread of the SDK's; a collector that is
away costs nothing but its spans.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from penstock._version import __version__
from penstock.errors import ConfigError, missing
from penstock.types import RequestMetrics, SamplingParams

PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
SPAN = "llm_request"


@dataclass(slots=True)
class RequestSpan:
    """The span of one request in the engine. The first end counts."""

    span: Any
    ended: bool = False

    def end(
        self, times: RequestMetrics | None, prompt_tokens: int, generated: int, reasons: Sequence[str] = ()
    ) -> None:
        """The request ended by itself, or (``times`` None) was given up."""
        if self.ended:
            return
        self.ended = True
        values: dict[str, Any] = {
            "gen_ai.usage.prompt_tokens": prompt_tokens, "gen_ai.usage.input_tokens": prompt_tokens,
            "gen_ai.usage.completion_tokens": generated, "gen_ai.usage.output_tokens": generated,
            "gen_ai.response.finish_reasons": list(reasons),
        }  # fmt: skip
        self.span.set_attributes(values | ({} if times is None else latencies(times)))
        self.span.end()

    def fail(self, reason: str) -> None:
        if self.ended:
            return
        self.ended = True
        status = import_module("opentelemetry.trace")
        self.span.set_status(status.Status(status.StatusCode.ERROR, reason[:300]))
        self.span.end()


@dataclass(frozen=True, slots=True)
class Trace:
    """Where the spans of one HTTP request belong. ``parent``: the caller's context."""

    tracer: Any
    parent: Any
    request_id: str

    def begin(self, model: str, params: SamplingParams, prompt_tokens: int, operation: str) -> RequestSpan:
        values: dict[str, Any] = {
            "gen_ai.operation.name": operation, "gen_ai.provider.name": "penstock", "gen_ai.request.model": model,
            "gen_ai.response.model": model, "gen_ai.request.id": self.request_id, "gen_ai.request.n": params.n,
            "gen_ai.usage.num_sequences": params.best_of or params.n, "gen_ai.usage.prompt_tokens": prompt_tokens,
            "gen_ai.request.temperature": params.temperature, "gen_ai.request.top_p": params.top_p,
        }  # fmt: skip
        if params.max_tokens is not None:
            values["gen_ai.request.max_tokens"] = params.max_tokens
        kind = import_module("opentelemetry.trace").SpanKind.SERVER
        found = self.tracer.start_span(SPAN, self.parent, kind, values, start_time=time.time_ns())
        return RequestSpan(found)


class Tracing:
    """Makes spans with ``provider``, the SDK's."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("penstock", __version__)
        self._extract = import_module("opentelemetry.propagate").extract

    def trace(self, headers: Mapping[str, str], request_id: str) -> Trace:
        """``headers`` in lower case; without a valid ``traceparent`` a trace of its own begins."""
        return Trace(self._tracer, self._extract(headers), request_id)

    def close(self) -> None:
        """Send what is left, for a few seconds at most."""
        self._provider.force_flush(5000)
        self._provider.shutdown()


def make_tracing(endpoint: str | None) -> Tracing | None:
    """Tracing to an OTLP collector; None without one.

    Raises ``MissingDependencyError`` without the SDK, ``ConfigError`` for what is no address of a collector.
    """
    if not endpoint:
        return None
    exporter = _exporter(endpoint)
    try:
        sdk, export = import_module("opentelemetry.sdk.trace"), import_module("opentelemetry.sdk.trace.export")
        resources = import_module("opentelemetry.sdk.resources")
    except ImportError:
        raise missing("opentelemetry-sdk", "otel") from None
    named = os.environ.get("OTEL_SERVICE_NAME") or "penstock"
    provider = sdk.TracerProvider(resource=resources.Resource.create({"service.name": named}))
    provider.add_span_processor(export.BatchSpanProcessor(exporter))
    return Tracing(provider)


def _exporter(endpoint: str) -> Any:
    try:
        where = urlsplit(endpoint)
        _ = where.port
    except ValueError as error:
        raise ConfigError(f"--otlp-traces-endpoint {endpoint}: {error}") from None
    if where.scheme not in ("http", "https", "grpc") or not where.hostname:
        raise ConfigError(f"--otlp-traces-endpoint {endpoint}: give an address like http://localhost:4318/v1/traces")
    asked = next((text for name in PROTOCOLS if (text := os.environ.get(name))), None)
    if asked not in (None, "grpc", "http/protobuf"):
        raise ConfigError(f"{PROTOCOLS[0]}={asked}: must be grpc or http/protobuf")
    if "grpc" in (asked, where.scheme):
        try:
            module = import_module("opentelemetry.exporter.otlp.proto.grpc.trace_exporter")
        except ImportError:
            raise missing("opentelemetry-exporter-otlp-proto-grpc") from None
        return module.OTLPSpanExporter(where._replace(scheme="http").geturl(), insecure=where.scheme != "https")
    try:
        module = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ImportError:
        raise missing("opentelemetry-exporter-otlp-proto-http", "otel") from None
    path = where.path if where.path not in ("", "/") else "/v1/traces"
    return module.OTLPSpanExporter(where._replace(path=path).geturl())


def latencies(times: RequestMetrics) -> dict[str, float]:
    """vLLM's ``gen_ai.latency.*``, in seconds."""
    first, last, scheduled = times.first_token_time, times.last_token_time, times.scheduled_time
    last = first if last is None else last
    found: dict[str, float | None] = {
        "gen_ai.latency.time_in_queue": times.queued,
        "gen_ai.latency.time_to_first_token": times.ttft,
        "gen_ai.latency.time_in_model_prefill": times.prefill,
        "gen_ai.latency.time_in_model_decode": None if first is None or last is None else last - first,
        "gen_ai.latency.time_in_model_inference": None if scheduled is None or last is None else last - scheduled,
        "gen_ai.latency.e2e": None if last is None else last - times.arrival_time,
    }
    return {name: value for name, value in found.items() if value is not None}
