"""Keys: every route but liveness wants one, whatever the path looks like, and nothing tells them apart by time."""

from __future__ import annotations

import hmac

import pytest

from penstock.errors import ConfigError
from penstock.server.auth import Keys, load_keys
from tests.server.harness import Server

PUBLIC = {"/health", "/healthz", "/live", "/livez", "/ping", "/ready", "/readyz"}


@pytest.fixture(scope="module")
def guarded(llm):
    with Server(llm, api_keys=("sekret-1", "Sekret-2")) as server:
        yield server


def test_every_route_but_liveness_wants_a_key(guarded):
    edge = guarded.uvicorn.config.app
    endpoints = [endpoint for dialect in edge.dialects for endpoint in dialect.endpoints]
    assert len(endpoints) > 10
    for endpoint in endpoints:
        path = endpoint.path.partition("{")[0]
        answer = guarded.request(endpoint.method, path, {} if endpoint.method == "POST" else None)
        if endpoint.path in PUBLIC:
            assert answer.status == 200, endpoint
        else:
            assert answer.status == 401, endpoint  # administrators' routes, too
            assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/", "/nothing", "/v1/nothing", "/v1//models", "/v1/models/", "//metrics", "/health/../metrics"):
        assert guarded.get(path).status == 401


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": "Bearer sekret-1"}, {"Authorization": "bearer  Sekret-2 "}, {"X-Api-Key": "sekret-1"}],
)
def test_known_keys_are_let_in(guarded, headers):
    assert guarded.get("/v1/models", **headers).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"Authorization": "sekret-1"}, {"Authorization": "Bearer sekret-2"}, {"Authorization": "Bearer "},
        {"Authorization": "Bearer SEKRET-1"}, {"X-Api-Key": "nope"}, {"Authorization": "Basic sekret-1"},
        {"Host": "localhost/health?x="},
    ],
)  # fmt: skip
def test_others_are_not(guarded, headers):
    answer = guarded.get("/v1/models", **headers)
    assert answer.status in (400, 401)
    assert b"sekret" not in answer.body


def test_a_body_is_not_read_for_strangers(guarded):
    answer = guarded.post("/v1/completions", b"not json at all")
    assert answer.status == 401


def test_keys_are_compared_as_digests_in_constant_time(monkeypatch):
    seen = []
    real = hmac.compare_digest

    def watch(a, b):
        seen.append((a, b))
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", watch)
    Keys(["one", "two", "three"]).check({"authorization": "Bearer one"})
    assert len(seen) == 3 and all(len(a) == len(b) == 32 for a, b in seen)


def test_keys_from_a_file(tmp_path):
    file = tmp_path / "keys"
    file.write_text("# team\nalpha\n\n  beta  \n")
    keys = load_keys(["gamma"], str(file))
    for key in ("alpha", "beta", "gamma"):
        keys.check({"x-api-key": key})
    with pytest.raises(ConfigError, match="cannot read"):
        load_keys([], str(tmp_path / "none"))
    file.write_text("# nothing\n")
    with pytest.raises(ConfigError, match="no API key"):
        load_keys([], str(file))
    with pytest.raises(ConfigError, match="empty"):
        load_keys([""], None)
