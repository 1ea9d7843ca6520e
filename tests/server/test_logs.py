"""Log lines for machines."""

from __future__ import annotations

import io
import json
import logging

import pytest

from penstock.server.current import CURRENT, Current
from penstock.server.logs import JsonFormatter
from tests.server.harness import Server


@pytest.fixture
def lines():
    """Everything that is logged, as the JSON formatter writes it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger("penstock")
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.removeHandler(handler)
    root.setLevel(level)


def test_a_line_for_a_request(llm, lines):
    with Server(llm, log_requests=True) as server:
        answer = server.request("GET", "/v1/models?x=1", headers={"X-Request-Id": "abc"})
        server.post("/v1/completions", {"prompt": ""})
    assert answer.status == 200
    first, second = [line for line in lines() if line["logger"] == "penstock.access"]
    assert first["request_id"] == "abc" and first["level"] == "info" and first["time"].endswith("+00:00")
    ms = first["http"].pop("ms")
    assert ms >= 0
    assert first["http"] == {"method": "GET", "path": "/v1/models", "route": "/v1/models", "status": 200}
    assert second["http"]["status"] == 400 and second["request_id"] != "abc"


def test_polls_of_the_page_are_in_the_log_only_when_they_fail(llm, lines):
    with Server(llm, log_requests=True, api_keys=("key",)) as server:
        assert server.get("/page/stats", Authorization="Bearer key").status == 200
        assert server.get("/page/stats").status == 401
        server.get("/page/info", Authorization="Bearer key")
    found = [line["http"] for line in lines() if line["logger"] == "penstock.access"]
    assert [(each["path"], each["status"]) for each in found] == [("/page/stats", 401), ("/page/info", 200)]


def test_errors_name_their_request(llm, lines, monkeypatch):
    def broken(*args):
        raise RuntimeError("out\nof luck \ud800")

    monkeypatch.setattr("penstock.server.metrics.Metrics.text", broken)
    with Server(llm) as server:
        assert server.get("/metrics", X_Request_Id="it").status == 500
    (line,) = [line for line in lines() if line["level"] == "error"]
    assert line["request_id"] == "it" and "RuntimeError: out\nof luck" in line["exception"]


def test_lines_outside_of_requests():
    record = logging.LogRecord("penstock.x", logging.WARNING, "f", 1, "a %s", ("b",), None)
    assert "request_id" not in json.loads(JsonFormatter().format(record))
    token = CURRENT.set(Current("id"))
    try:
        assert json.loads(JsonFormatter().format(record))["request_id"] == "id"
    finally:
        CURRENT.reset(token)


def test_what_a_client_sends_forges_no_line(llm, lines):
    forged = 'no-such\n{"level": "error", "logger": "penstock.access", "message": "forged"}'
    with Server(llm, log_requests=True) as server:
        answer = server.post("/v1/completions", {"model": forged, "prompt": "a", "max_tokens": 1, "user": forged})
        server.request("GET", "/v1/models/no%0Asuch%0D%0Aline?x=%0A")
    assert answer.status in (200, 404)
    assert all(line["message"] != "forged" and line["level"] != "error" for line in lines())
    assert len([line for line in lines() if line["logger"] == "penstock.access"]) == 2
