"""``serve`` as a process: the ready line, a taken port, a drain on SIGTERM, exit codes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from penstock.errors import ConfigError
from penstock.server.options import split
from penstock.server.run import bind, serve
from tests.server.harness import EXECUTOR, Raw, parse_answer

MAIN = """
import sys, time
from penstock.server import run
real = run.AsyncLLM
def braked(*args, **options):
    llm = real(*args, **options)
    executor = llm.model.executor
    class Slow:
        def __getattr__(self, name): return getattr(executor, name)
        def run(self, batch):
            time.sleep(0.02)
            return executor.run(batch)
    llm.model.engine.executor = Slow()
    return llm
run.AsyncLLM = braked
sys.exit(run.serve({"model": sys.argv[1], "executor": sys.argv[2], "port": 0, "threads": 1,
    "kv_cache_memory": 1 << 22, "drain_timeout": float(sys.argv[3]), "served_model_name": "m"}))
"""


STUCK = """
import sys, time
from penstock.cli.main import main
from penstock.server import run
real = run.AsyncLLM
def stuck(*args, **options):
    llm = real(*args, **options)
    encode = llm.frontend.encode
    def slow(prompt, **options):
        if prompt == "hang":
            time.sleep(100)
        return encode(prompt, **options)
    llm.frontend.encode = slow
    return llm
run.AsyncLLM = stuck
sys.argv[1:] = ["serve", sys.argv[1], "--executor", sys.argv[2], "--port=0", "--threads=1", "--kv-cache-memory=4M",
    "--drain-timeout", sys.argv[3]]
sys.exit(main())
"""


class Process:
    def __init__(self, checkpoint: Path, drain: float, program: str = MAIN) -> None:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
        self.popen = subprocess.Popen(
            [sys.executable, "-c", program, str(checkpoint), EXECUTOR, str(drain)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip
        assert self.popen.stdout is not None and self.popen.stderr is not None
        told = self.popen.stdout if program is MAIN else self.popen.stderr
        line = next((line for line in told if "ready at http://127.0.0.1:" in line), "")
        assert line, self.popen.stderr.read()
        self.port = int(line.split("http://127.0.0.1:")[1].split()[0])

    def start(self, tokens: int) -> Raw:
        raw = Raw(self.port)
        body = {"prompt": "a", "max_tokens": tokens, "ignore_eos": True, "stream": True}
        raw.ask("POST", "/v1/completions", body)
        raw.read_until(b"data:")
        return raw

    def get(self, path: str):
        with Raw(self.port) as raw:
            raw.ask("GET", path)
            return raw.answer()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.communicate()


def test_sigterm_lets_running_requests_finish(checkpoint):
    with Process(checkpoint, 20) as process, process.start(60) as raw:
        process.popen.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert process.get("/ready").status == 503
        assert process.get("/live").status == 200
        with Raw(process.port) as late:
            late.ask("POST", "/v1/completions", {"prompt": "a"})
            answer = late.answer()
        assert answer.status == 503 and answer.headers["retry-after"] and answer.error["code"] == "shutting_down"
        rest = raw.rest()
        assert b'"finish_reason":"length"' in rest and b"[DONE]" in rest and b'"error"' not in rest
        assert process.popen.wait(10) == 0
        assert process.popen.stderr.read() == ""


def test_a_drain_that_takes_too_long_ends_with_an_error_event(checkpoint):
    with Process(checkpoint, 0.3) as process, process.start(900) as raw:
        whole = Raw(process.port)
        whole.ask("POST", "/v1/completions", {"prompt": "a", "max_tokens": 900, "ignore_eos": True})
        time.sleep(0.2)
        process.popen.send_signal(signal.SIGTERM)
        rest = raw.rest()
        assert b'data: {"error":' in rest and b"shutting" in rest
        assert parse_answer(whole.rest()).status == 503
        assert process.popen.wait(10) == 0


def test_a_helper_that_is_stuck_does_not_hold_up_the_end(checkpoint):
    with Process(checkpoint, 0.5, STUCK) as process, Raw(process.port) as raw:
        raw.ask("POST", "/v1/completions", {"prompt": "hang"})
        time.sleep(0.3)
        began = time.monotonic()
        process.popen.send_signal(signal.SIGTERM)
        assert parse_answer(raw.rest()).status == 503
        assert process.popen.wait(20) == 0
        assert time.monotonic() - began < 20


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_means_now(checkpoint, second):
    with Process(checkpoint, 60) as process, process.start(900):
        process.popen.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.popen.poll() is None
        began = time.monotonic()
        process.popen.send_signal(second)
        assert process.popen.wait(10) == 0
        assert time.monotonic() - began < 5


def test_a_taken_port_is_told_before_loading():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port}: .*in use.*--port"):
            serve({"model": "/does/not/exist", "port": port})


def test_a_bad_host_and_bad_options_are_told():
    with pytest.raises(ConfigError, match="host"):
        bind("no such host", 0)
    with pytest.raises(ConfigError, match="max_body"):
        split({"max_body": -1})
    with pytest.raises(ConfigError, match="port"):
        split({"port": 70000})
    with pytest.raises(ConfigError, match="disabled_dialects"):
        split({"disabled_dialects": ["nothing"]})
    options, rest = split({"api_key": "one", "max_model_len": 5, "host": None})
    assert options.api_keys == ("one",) and rest == {"max_model_len": 5}


def test_only_the_one_port_is_open(checkpoint):
    with Process(checkpoint, 1) as process:
        inodes = set()
        for link in Path(f"/proc/{process.popen.pid}/fd").iterdir():
            try:
                inodes.add(str(link.readlink()))
            except OSError:
                continue
        listening = []
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{process.popen.pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                    listening.append(fields[1])
        assert listening == [f"0100007F:{process.port:04X}"]
