"""An engine whose thread has ended: its requests are told, it is loaded again, and when that does not help the server
ends with a reason."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

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


HANGS = """
import ctypes, sys
from penstock.cli.main import main
from penstock.server import run
real = run.AsyncLLM
def hung(*args, **options):
    llm = real(*args, **options)
    llm.model.engine.step = ctypes.CDLL(None).pause  # native code, without the GIL, for ever
    return llm
run.AsyncLLM, run.PATIENCE = hung, 0.5
sys.exit(main(["serve", sys.argv[1], "--executor", sys.argv[2], "--port", "0", "--threads", "1", "-q",
    "--kv-cache-memory", "4M", "--served-model-name", "m", *sys.argv[3:]]))
"""


def hanging(checkpoint: Path, *options: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", HANGS, str(checkpoint), EXECUTOR, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def port_of(process: subprocess.Popen[str]) -> int:
    assert process.stderr is not None
    for line in process.stderr:
        if "http://127.0.0.1:" in line:
            return int(line.split("http://127.0.0.1:")[1].split()[0])
    raise AssertionError("it did not start")


def test_requests_of_a_step_that_hangs_are_told_and_the_process_ends(checkpoint):
    with hanging(checkpoint, "--hang-timeout", "1.5", "--watchdog-timeout", "0.5") as process:
        try:
            port = port_of(process)
            with Raw(port) as stream, Raw(port) as whole, Raw(port) as other:
                stream.ask("POST", "/v1/completions", {**BODY, "stream": True})
                whole.ask("POST", "/v1/completions", BODY)
                other.ask("GET", "/health")
                assert other.answer().status == 200, "not yet"
                assert eventually(lambda: healthy(port) == 503)
                assert b"has not ended for 1.5 s" in stream.rest()
                assert whole.answer().status == 503
            assert process.wait(30) == 1
            assert process.stderr is not None
            said = process.stderr.read()
            assert "a step of 'm' has not ended for 1.5 s: the server ends" in said
            assert "most recent call first" in said, "where it hangs"
        finally:
            process.kill()


def test_a_signal_ends_a_server_whose_step_hangs(checkpoint):
    with hanging(checkpoint, "--drain-timeout", "0.5", "--watchdog-timeout", "0.2") as process:
        try:
            with Raw(port_of(process)) as raw:
                raw.ask("POST", "/v1/completions", BODY)
                assert eventually(lambda: healthy(raw.port) == 503)
                process.terminate()
                assert b"503" in raw.rest()
            assert process.wait(30) == 1
        finally:
            process.kill()


def healthy(port: int) -> int:
    with Raw(port) as raw:
        raw.ask("GET", "/health")
        return raw.answer().status


def test_a_process_that_was_stopped_has_not_hung(server, monkeypatch):
    """Only what the loop itself saw of a step counts, a second at most at once."""
    clock = [1000.0]
    monkeypatch.setattr(supervisor, "time", type("", (), {"monotonic": lambda: clock[0]}))
    monkeypatch.setattr(type(server.llm.model.engine), "has_work", True)
    one = supervisor.Supervisor(server.state)
    served = server.state.served[NAME]
    limit = server.state.options.hang_timeout
    for passed in (0.0, 1e6, 1e6):
        clock[0] += passed
        one.look()
    assert one.given_up is None and served.llm.failure is None
    assert one._stuck[NAME][1] == 2.0 < limit


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
