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

from penstock.errors import ExecutionError, OverloadedError

SECONDS = 3.0
WAIT_SECONDS = 10.0
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
        ``OverloadedError`` when others' grammars kept the process busy for too long, ``ExecutionError`` if it cannot
        be started.
        """
        if not self._lock.acquire(timeout=WAIT_SECONDS):
            raise OverloadedError("too many grammars wait to be compiled")
        try:
            line = json.dumps({"kind": kind, "source": source, "options": dict(options)}).encode() + b"\n"
            answer = self._ask(line)
        finally:
            self._lock.release()
        if "error" in answer:
            raise ValueError(answer["error"])
        return str(answer["grammar"])

    def close(self) -> None:
        """End the process. The next grammar starts another."""
        with self._lock:
            self._kill()

    def _ask(self, line: bytes) -> dict[str, str]:
        fresh = self._process is None or self._process.poll() is not None
        process = self._start() if fresh or self._process is None else self._process
        found = self._exchange(process, line, self.seconds + (START_SECONDS if fresh else 0))
        if not found and not fresh:  # it may have gone home for want of work
            self._kill()
            found = self._exchange(self._start(), line, self.seconds + START_SECONDS)
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
                raise ValueError(f"it takes more than {self.seconds:g} s to compile")
            try:
                sent += os.write(target, line[sent : sent + 4096]) if room else 0
                piece = os.read(source, 1 << 16) if ready else None
            except BrokenPipeError:
                return b""
            if piece == b"" or len(found) > _ANSWER_BYTES:
                return b""
            found += piece or b""
        return bytes(found)

    def _start(self) -> subprocess.Popen[bytes]:
        script = Path(__file__).with_name("worker.py")
        paths = os.pathsep.join(path for path in sys.path if path)
        self._process = None
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, env={"PYTHONPATH": paths}, close_fds=True,
            )  # fmt: skip
        except OSError as error:
            raise ExecutionError(f"the process that compiles grammars cannot be started: {error}") from None
        return self._process

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
