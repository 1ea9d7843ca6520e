"""Spans of requests: what they say, whose trace they belong to, and how they leave."""

from __future__ import annotations

import gzip
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from penstock.errors import ConfigError, MissingDependencyError
from penstock.server.run import serve
from penstock.server.tracing import Tracing, make_tracing
from tests.server.harness import Raw, Server, eventually

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk (the extra 'otel') is not installed")
export = pytest.importorskip("opentelemetry.sdk.trace.export")
memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "mine"}
HELLO = [{"role": "user", "content": "hi, a secret word"}]


@pytest.fixture(scope="module")
def exporter():
    return memory.InMemorySpanExporter()


@pytest.fixture(scope="module")
def traced(llm, exporter):
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    tracing = Tracing(provider)
    with Server(llm) as server:
        server.state.tracing = tracing
        yield server
    tracing.close()


@pytest.fixture
def spans(exporter):
    """The spans that have ended since the test began."""
    exporter.clear()
    return exporter.get_finished_spans


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_a_span_of_its_callers_trace(traced, spans, stream):
    body = {"messages": HELLO, "max_tokens": 5, "temperature": 0.5, "ignore_eos": True, "stream": stream}
    assert traced.request("POST", "/v1/chat/completions", body, HEADERS).status == 200
    (span,) = spans()
    assert span.name == "llm_request" and span.kind.name == "SERVER"
    assert f"{span.context.trace_id:032x}" == TRACE and f"{span.parent.span_id:016x}" == PARENT
    found = dict(span.attributes)
    prompt = found["gen_ai.usage.prompt_tokens"]
    assert prompt > 5 and found["gen_ai.usage.input_tokens"] == prompt
    assert found["gen_ai.usage.completion_tokens"] == found["gen_ai.usage.output_tokens"] == 5
    assert found["gen_ai.request.id"] == "mine" and found["gen_ai.response.model"] == traced.llm.model.name
    assert found["gen_ai.operation.name"] == "chat" and found["gen_ai.response.finish_reasons"] == ("length",)
    assert (found["gen_ai.request.temperature"], found["gen_ai.request.max_tokens"]) == (0.5, 5)
    latency = {k.rpartition(".")[2]: v for k, v in found.items() if k.startswith("gen_ai.latency.")}
    assert set(latency) == {
        "time_in_queue", "time_to_first_token", "time_in_model_prefill", "time_in_model_decode",
        "time_in_model_inference", "e2e",
    }  # fmt: skip
    assert 0 <= latency["time_in_queue"] <= latency["time_to_first_token"] <= latency["e2e"]
    assert latency["e2e"] <= (span.end_time - span.start_time) / 1e9 + 0.1
    assert "secret" not in span.to_json()


@pytest.mark.parametrize("header", [None, "", "00-zz-zz-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x" * 5000])
def test_without_a_context_a_trace_of_its_own_begins(traced, spans, header):
    headers = {} if header is None else {"traceparent": header}
    assert traced.request("POST", "/v1/completions", {"prompt": "x", "max_tokens": 2}, headers).status == 200
    (span,) = spans()
    assert span.parent is None and span.context.trace_id != int(TRACE, 16)


def test_a_context_that_is_not_sampled_makes_no_span(traced, spans):
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
    assert traced.request("POST", "/v1/completions", {"prompt": "x", "max_tokens": 2}, headers).status == 200
    assert spans() == ()


def test_each_prompt_and_every_dialect(traced, spans):
    traced.post("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 2, "n": 2})
    assert [s.attributes["gen_ai.usage.num_sequences"] for s in spans()] == [2, 2]
    for path, body in (
        ("/generate", {"inputs": "x", "parameters": {"max_new_tokens": 2}}),
        ("/v1/messages", {"messages": HELLO, "max_tokens": 2}),
        ("/api/chat", {"messages": HELLO, "options": {"num_predict": 2}}),
        ("/completion", {"prompt": "x", "n_predict": 2}),
        ("/v1/responses", {"input": "x", "max_output_tokens": 2}),
    ):
        before = len(spans())
        assert traced.post(path, body).status == 200
        assert len(spans()) == before + 1, path


def test_one_that_leaves_and_one_that_fails(traced, spans, monkeypatch):
    with Raw(traced.port) as raw:
        raw.ask("POST", "/v1/completions", {"prompt": "x", "max_tokens": 900, "ignore_eos": True, "stream": True})
        raw.read_until(b"data:")
    assert eventually(lambda: len(spans()) == 1)
    (span,) = spans()
    assert span.status.status_code.name == "ERROR" and "given up" in span.status.description
    executor = traced.llm.model.engine.executor

    def broken(batch):
        raise RuntimeError("no luck")

    monkeypatch.setattr(executor, "run", broken)
    assert traced.post("/v1/completions", {"prompt": "x", "max_tokens": 3}).status == 500
    assert "no luck" in spans()[1].status.description


def test_spans_reach_a_collector():
    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            data = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, gzip.decompress(data) if self.headers["Content-Encoding"] == "gzip" else data))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        try:
            tracing = make_tracing(f"http://127.0.0.1:{collector.server_port}")
            assert tracing is not None
            with tracing._tracer.start_as_current_span("llm_request"):
                pass
            tracing.close()
        finally:
            collector.shutdown()
            thread.join()
    ((path, data),) = received
    assert path == "/v1/traces" and b"llm_request" in data and b"penstock" in data


def test_a_collector_that_is_away_harms_nothing(llm):
    tracing = make_tracing("http://127.0.0.1:9")
    assert tracing is not None
    with Server(llm) as server:
        server.state.tracing = tracing
        assert server.post("/v1/completions", {"prompt": "x", "max_tokens": 2}).status == 200
    tracing._provider.shutdown()


@pytest.mark.parametrize("endpoint", ["localhost:4318", "ftp://x/y", "http://", "http://x:port", "http://[x"])
def test_what_is_no_address(endpoint):
    with pytest.raises(ConfigError, match="otlp-traces-endpoint"):
        make_tracing(endpoint)


def test_protocols(monkeypatch):
    assert make_tracing(None) is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "carrier-pigeon")
    with pytest.raises(ConfigError, match="http/protobuf"):
        make_tracing("http://localhost:4318")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(MissingDependencyError, match="opentelemetry-exporter-otlp-proto-grpc"):
        make_tracing("http://localhost:4317")


@pytest.mark.parametrize("module", ["opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter"])
def test_without_the_extra_the_server_does_not_start_and_names_the_remedy(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=r"penstock\[otel\]"):
        serve({"otlp_traces_endpoint": "http://localhost:4318", "port": 0, "model": "/nowhere"})
