"""The machine around a server: closed pipes, few file descriptors, IPv6 alone, a killed process."""

from __future__ import annotations

import os
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
if len(sys.argv) > 4:  # penstock may not raise it
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[4]), int(sys.argv[4])))
sys.argv[1:] = ["serve", sys.argv[1], "--executor", sys.argv[2], "--host", sys.argv[3], "--port=0", "--threads=1",
    "--kv-cache-memory=4M"]
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
