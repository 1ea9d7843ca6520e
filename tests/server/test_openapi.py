"""The description of the API says what is there, and every route survives what the description allows."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256

import pytest


@pytest.fixture(scope="module")
def described(server):
    return server.get("/openapi.json").json


def test_every_route_is_described(server, described):
    for dialect in server.uvicorn.config.app.dialects:
        for endpoint in dialect.endpoints:
            path = re.sub(r"\{(\w+):\w+\}", r"{\1}", endpoint.path)
            if path not in ("/openapi.json", "/docs"):
                assert endpoint.method.lower() in described["paths"][path]


def test_people_read_it_too(server, described):
    answer = server.get("/docs")
    assert answer.status == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    text = answer.body.decode()
    for path in described["paths"]:
        assert f"<code>{path}</code>" in text
    for field in ("max_tokens", "typical_p", "logit_bias", "inputs", "stop_sequences"):
        assert f"<td><code>{field}</code></td>" in text
    assert "<script" not in text and "http" not in text.replace("https://json-schema.org", "")
    policy = answer.headers["content-security-policy"]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    digest = b64encode(sha256(style[1].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and digest in policy


def test_references_lead_somewhere(described):
    names = re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(described))
    assert len(names) > 5 and set(names) <= set(described["components"]["schemas"])
    identifiers = [o["operationId"] for path in described["paths"].values() for o in path.values()]
    assert len(set(identifiers)) == len(identifiers)


def test_odd_bodies_make_no_server_error_anywhere(server, described):
    odd: list[object] = [
        None,
        [],
        "x",
        5,
        {},
        {"model": "tiny"},
        {"a": {"b": [1]}},
        {"messages": [[]], "prompt": {}, "inputs": 5},
    ]
    for path, operations in described["paths"].items():
        for method in operations:
            place = path.replace("{name}", "x%00y/../z")
            for body in odd if method == "post" else [None]:
                data = None if method == "get" else json.dumps(body).encode()
                answer = server.request(method.upper(), place, data)
                assert answer.status < 500, (method, path, body, answer.body)
    assert server.get("/health").status == 200
