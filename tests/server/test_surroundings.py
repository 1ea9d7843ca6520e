"""The machine around a server: closed pipes, a full disk, few file descriptors or many connections, IPv6 alone, a home
that cannot be written, a clock that jumps, a killed process."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.server.harness import EXECUTOR, Raw, eventually

MAIN = """
import resource, sys
from penstock.cli.main import main
if sys.argv[4:] and sys.argv[4]:  # penstock may not raise it
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[4]), int(sys.argv[4])))
sys.argv[1:] = ["serve", sys.argv[1], "--executor", sys.argv[2], "--host", sys.argv[3], "--port=0", "--threads=1",
    "--kv-cache-memory=4M", *sys.argv[5:]]
sys.exit(main())
"""
BODY = {"prompt": "a", "max_tokens": 2}


class Process:
    def __init__(self, checkpoint: Path, host: str = "127.0.0.1", *more: object) -> None:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
        self.popen = subprocess.Popen(
            [sys.executable, "-c", MAIN, str(checkpoint), EXECUTOR, host, *map(str, more)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip
        assert self.popen.stderr is not None
        line = next((line for line in self.popen.stderr if "ready at http" in line), "")
        assert line
        self.port = int(line.split("(")[0].rpartition(":")[2])

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc: object) -> None:
        self.popen.kill()
        self.popen.wait()
        for pipe in (self.popen.stdout, self.popen.stderr):
            if pipe is not None:
                pipe.close()

    def ask(self, path: str = "/v1/completions", body: object = BODY) -> int:
        with Raw(self.port) as raw:
            raw.ask("POST", path, body)
            return raw.answer().status

    def stop(self) -> int:
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(20)


def test_nobody_reads_what_it_prints(checkpoint):
    with Process(checkpoint) as process:
        assert process.popen.stdout is not None and process.popen.stderr is not None
        process.popen.stdout.close()
        process.popen.stderr.close()
        assert [process.ask() for _ in range(3)] == [200] * 3
        assert process.stop() == 0


def test_few_file_descriptors(checkpoint):
    used = 64
    with Process(checkpoint, "127.0.0.1", used) as process:
        idle = [socket.socket() for _ in range(2 * used)]
        for each in idle:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", process.port))
        time.sleep(0.5)
        assert process.popen.poll() is None
        for each in idle:
            each.close()
        assert process.ask() == 200
        assert process.stop() == 0


def test_ipv6_alone(checkpoint):
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("this machine has no IPv6")
    with Process(checkpoint, "::1") as process:
        with socket.create_connection(("::1", process.port), timeout=30) as raw:
            raw.sendall(b"GET /health HTTP/1.1\r\nHost: [::1]:%d\r\nConnection: close\r\n\r\n" % process.port)
            assert raw.recv(100).startswith(b"HTTP/1.1 200")
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", process.port), timeout=5)


def children(pid: int) -> list[int]:
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            fields = (each / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(each.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_server_leaves_no_process(checkpoint):
    pytest.importorskip("llguidance", reason="llguidance is not installed")
    with Process(checkpoint) as process:
        # Grammars are tried in a process of their own.
        assert process.ask(body={**BODY, "structured_outputs": {"regex": "[ab]{2}"}}) == 200
        helpers = children(process.popen.pid)
        process.popen.kill()
        process.popen.wait()
        assert eventually(lambda: not any(map(alive, helpers)), 20)


def test_a_full_disk_under_its_log(checkpoint):
    """Everything it says is lost, from the first line on; it serves, and ends well."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    code = MAIN.replace("--port=0", f"--port={port}")
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-c", code, str(checkpoint), EXECUTOR, "127.0.0.1"]
        process = subprocess.Popen(command, stdout=full, stderr=full, env=env)
    try:
        assert eventually(lambda: answers(port), 30)
        for _ in range(3):
            with Raw(port) as raw:
                raw.ask("POST", "/v1/completions", BODY)
                assert raw.answer().status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()


def answers(port: int) -> bool:
    try:
        with Raw(port) as raw:
            raw.ask("GET", "/ready")
            return raw.answer().status == 200
    except OSError:
        return False


def test_a_home_that_cannot_be_written(checkpoint, monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, "/proc/none")
    with Process(checkpoint) as process:
        assert process.ask() == 200 and process.stop() == 0


def test_a_clock_that_jumps(server, monkeypatch):
    """Deadlines are of the monotonic clock: a wall clock that is set anew, hours back or years ahead, ends nothing."""
    jumps = iter([0.0, 3600.0, -7200.0, 1e9, -1e9] * 10_000)
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + next(jumps))
    body = {"prompt": "x", "max_tokens": 60, "ignore_eos": True}
    with Raw(server.port) as stream:
        stream.ask("POST", "/v1/completions", {**body, "stream": True})
        found = stream.answer()
    assert (
        found.status == 200
        and found.body.endswith(b"data: [DONE]\n\n")
        and found.events[-1]["choices"][0]["finish_reason"]
    )
    chat = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3}
    assert server.post("/v1/chat/completions", chat).status == 200
    with Raw(server.port) as kept:  # an idle connection lives as long as it may
        for _ in range(3):
            kept.ask("GET", "/health", headers={"Connection": "keep-alive"})
            assert b'"ok"' in kept.read_until(b'"ok"}')
            time.sleep(0.1)
    assert server.get("/health").status == 200 and eventually(server.idle)


def test_nothing_but_stamps_is_read_from_the_wall_clock():
    """Where ``time.time`` is called: what it gives is told to clients, and nothing is decided by it."""
    root = Path(__file__).parents[2] / "src" / "penstock"
    told = {
        "server/tracing.py", "server/ollama/routes.py", "server/state.py", "server/responses/routes.py",
        "server/openai/completions.py", "server/openai/chat.py",
    }  # fmt: skip
    callers = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if "time.time()" in (text := path.read_text()) or "time_ns()" in text
    }
    assert callers <= told


@pytest.mark.slow
def test_ten_thousand_idle_connections(checkpoint):
    """They cost memory, bounded, and no other client its answer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = 10_000 if hard == resource.RLIM_INFINITY else min(10_000, hard // 2 - 200)
    if count < 4000:
        pytest.skip(f"only {hard} open files are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    idle: list[socket.socket] = []
    try:
        with Process(checkpoint, "127.0.0.1", "", f"--max-connections={count + 50}") as process:
            assert process.ask() == 200
            before = memory_of(process.popen.pid)
            for _ in range(count):
                idle.append(socket.create_connection(("127.0.0.1", process.port), timeout=30))
            began = time.monotonic()
            assert process.ask() == 200
            assert time.monotonic() - began < 5
            assert (memory_of(process.popen.pid) - before) / count < 32 << 10
            for each in idle:
                each.close()
            assert process.ask() == 200
            assert process.stop() == 0
    finally:
        for each in idle:
            each.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def memory_of(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))


def test_one_cpu_means_one_thread():
    """Threads follow the affinity mask, as a container's cpuset sets it."""
    native = pytest.importorskip("penstock._native", reason="the native executor is not built")
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no affinity masks")
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from penstock import _native; print(_native.default_threads())"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)
    assert done.stdout.strip() == "1", done.stderr
    assert 1 <= native.default_threads() <= len(os.sched_getaffinity(0))
