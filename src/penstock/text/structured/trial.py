"""Grammars are tried in a process of their own, which is killed when it takes too long."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.errors import ExecutionError

SECONDS = 2.5
START_SECONDS = 10.0
_ANSWER_BYTES = 8 << 20


class Trial:
    """One child process, started when first needed and again after it was killed. Safe to use from several threads."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, kind: str, source: str, options: Mapping[str, Any]) -> str:
        """The grammar for the compiler.

        Raises ``ValueError`` with the reason if it is refused, takes more than ``seconds`` or too much memory,
        ``ExecutionError`` if the process cannot be started.
        """
        line = json.dumps({"kind": kind, "source": source, "options": dict(options)}).encode() + b"\n"
        with self._lock:
            answer = self._ask(line)
        if "error" in answer:
            raise ValueError(answer["error"])
        return str(answer["grammar"])

    def close(self) -> None:
        """End the process. The next grammar starts another."""
        with self._lock:
            self._kill()

    def _ask(self, line: bytes) -> dict[str, str]:
        process = self._process
        found = b""
        if process is not None:  # it may have gone home for want of work
            found = self._exchange(process, line, self.seconds)
        if not found:
            found = self._exchange(self._start(), line, self.seconds)
        if not found:
            self._kill()
            raise ValueError("it takes too much memory, or the compiler failed on it")
        answer: dict[str, str] = json.loads(found)
        return answer

    def _exchange(self, process: subprocess.Popen[bytes], line: bytes, seconds: float) -> bytes:
        """Send a line and read one; empty if the process ends first. Raises ``ValueError`` after ``seconds``."""
        assert process.stdin is not None
        assert process.stdout is not None
        until = time.monotonic() + seconds
        source, target = process.stdout.fileno(), process.stdin.fileno()
        found, sent = bytearray(), 0
        while not found.endswith(b"\n"):
            writing = [target] if sent < len(line) else []
            ready, room, _ = select.select([source], writing, [], max(0.0, until - time.monotonic()))
            if not ready and not room:
                self._kill()
                raise ValueError(f"it takes more than {seconds:g} s to compile")
            try:
                sent += os.write(target, line[sent : sent + select.PIPE_BUF]) if room else 0
            except BrokenPipeError:
                return b""
            piece = os.read(source, 1 << 16) if ready else None
            if piece == b"" or len(found) > _ANSWER_BYTES:
                return b""
            found += piece or b""
        return bytes(found)

    def _start(self) -> subprocess.Popen[bytes]:
        self._kill()
        script = Path(__file__).with_name("worker.py")
        paths = os.pathsep.join(path for path in sys.path if path)
        problem = f"it did not start within {START_SECONDS:g} s"
        try:
            # A session of its own: an interrupt at the terminal is for the parent.
            process = subprocess.Popen(
                [sys.executable, "-P", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, env={"PYTHONPATH": paths}, start_new_session=True,
            )  # fmt: skip
            self._process = process
            if self._exchange(process, b"", START_SECONDS):
                return process
        except (OSError, ValueError) as error:
            problem = str(error)
        self._kill()
        raise ExecutionError(f"the process that compiles grammars cannot be started: {problem}")

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def __del__(self) -> None:
        self._kill()
