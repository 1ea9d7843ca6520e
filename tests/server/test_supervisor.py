"""An engine whose thread has ended: its requests are told, it is loaded again, and when that does not help the server
ends with a reason."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from penstock.server import supervisor
from tests.server.harness import EXECUTOR, NAME, Raw, Server, eventually, open_model

BODY = {"prompt": "x", "max_tokens": 3}


def die():
    raise SystemError("a bug of ours")


@pytest.fixture
def running(checkpoint):
    llm = open_model(checkpoint)
    with Server(llm, model_aliases=("other",)) as server:
        yield server
    for served in server.state.served.values():
        served.llm.close()
    llm.close()


def test_a_crashed_engine_is_loaded_again(running, monkeypatch):
    go = threading.Event()
    anew = supervisor._anew

    def slow(old):
        assert go.wait(20)
        return anew(old)

    monkeypatch.setattr(supervisor, "_anew", slow)
    before = running.llm
    with Raw(running.port) as raw:
        raw.ask("POST", "/v1/completions", {"prompt": "x", "max_tokens": 900, "ignore_eos": True, "stream": True})
        raw.read_until(b"data:")
        monkeypatch.setattr(before.model.engine, "step", die)
        assert b'"error"' in raw.rest()
    assert eventually(lambda: not running.state.served)
    for path in ("/health", "/ready"):
        assert running.get(path).status == 503
    assert running.get("/live").status == 200
    for model in (None, NAME, "other"):
        answer = running.post("/v1/completions", {**BODY, "model": model})
        assert answer.status == 503 and "retry-after" in answer.headers, model
    assert running.post("/v1/completions", {**BODY, "model": "nothing"}).status == 404
    go.set()
    assert eventually(lambda: running.get("/health").status == 200)
    for model in (None, NAME, "other"):
        assert running.post("/v1/completions", {**BODY, "model": model}).status == 200
    assert running.state.served[NAME].llm is not before
    assert b'penstock_engine_restarts_total{model_name="tiny"} 1.0' in running.get("/metrics").body
    assert running.uvicorn.supervisor.given_up is None


@pytest.mark.parametrize("again", ["crashes", "fails"])
def test_when_it_does_not_help_the_server_ends(checkpoint, monkeypatch, again):
    monkeypatch.setattr(supervisor, "PAUSES", (0.0,))
    llm = open_model(checkpoint)
    anew = supervisor._anew

    def broken(old):
        if again == "fails":
            old.close()
            raise OSError("the disk is gone")
        made = anew(old)
        monkeypatch.setattr(made.model.engine, "step", die)
        return made

    monkeypatch.setattr(supervisor, "_anew", broken)
    with Server(llm) as server:
        monkeypatch.setattr(llm.model.engine, "step", die)
        assert server.post("/v1/completions", BODY).status == 503
        if again == "crashes":
            assert eventually(lambda: server.state.metrics.restarts[NAME] == 1)
            assert server.post("/v1/completions", BODY).status == 503
        assert eventually(lambda: not server._thread.is_alive())
    for served in server.state.served.values():
        served.llm.close()
    reason = server.uvicorn.supervisor.given_up or ""
    assert "has stopped" in reason and ("the disk is gone" in reason or "2 times" in reason)


MAIN = """
import sys
from penstock.server import run, supervisor
supervisor.PAUSES = ()
real = run.AsyncLLM
def broken(*args, **options):
    llm = real(*args, **options)
    def die(): raise SystemError("a bug of ours")
    llm.model.engine.step = die
    return llm
run.AsyncLLM = broken
sys.exit(run.serve({"model": sys.argv[1], "executor": sys.argv[2], "port": 0, "threads": 1,
    "kv_cache_memory": 1 << 22, "served_model_name": "m"}))
"""


def test_the_process_ends_with_a_reason_and_a_status(checkpoint):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MAIN, str(checkpoint), EXECUTOR]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            port = int(process.stdout.readline().split("http://127.0.0.1:")[1].split()[0])
            with Raw(port) as raw:
                raw.ask("POST", "/v1/completions", BODY)
                assert raw.answer().status == 503
            assert process.wait(30) == 1
            assert "the server ends" in process.stderr.read()
        finally:
            process.kill()
