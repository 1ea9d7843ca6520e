"""A program on a terminal of its own: type to it, wait for what it says."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from types import TracebackType
from typing import Self

from tests.helpers import REPOSITORY

ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[=>])")
WAIT = 30.0
IUTF8 = 0o40000
"""Linux's flag that terminals set: the kernel deletes whole characters."""


class Terminal:
    """``penstock`` with ``args`` on a pseudo-terminal, 100 columns wide."""

    def __init__(self, *args: object, **environment: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        attributes = termios.tcgetattr(slave)
        attributes[0] |= IUTF8
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        settings = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "TERM": "xterm", **environment}

        def own_terminal() -> None:
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [sys.executable, "-m", "penstock", *map(str, args)],
            stdin=slave, stdout=slave, stderr=slave, env=settings, preexec_fn=own_terminal,
        )  # fmt: skip
        os.close(slave)
        self._raw = b""
        self._taken = 0

    @property
    def text(self) -> str:
        """Everything so far, without escape sequences."""
        return ESCAPES.sub("", self._raw.decode("utf-8", "replace")).replace("\r", "")

    def expect(self, wanted: str) -> str:
        """Wait for ``wanted`` after what was expected before; the text up to and with it."""
        end = time.monotonic() + WAIT
        while (at := self.text.find(wanted, self._taken)) < 0:
            if time.monotonic() > end or not self._read(end - time.monotonic()):
                raise AssertionError(f"no {wanted!r} in {self.text[self._taken :]!r}")
        found = self.text[self._taken : at + len(wanted)]
        self._taken = at + len(wanted)
        return found

    def keys(self, text: str) -> None:
        os.write(self.master, text.encode())

    def interrupt(self, wanted: str) -> str:
        """Ctrl-C at the prompt, pressed again where it is not heard.

        CPython's ``readline`` waits for keys in ``select``: one that comes while it draws is seen at the next key.
        """
        for _ in range(int(WAIT / 3)):
            self.keys("\x03")
            end = time.monotonic() + 3.0
            while wanted not in self.text[self._taken :] and time.monotonic() < end:
                self._read(end - time.monotonic())
            if wanted in self.text[self._taken :]:
                break
        return self.expect(wanted)

    def end(self) -> int:
        """Wait for the program to end; its exit code."""
        while self._read(WAIT):
            pass
        return self.process.wait(WAIT)

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self.master], [], [], max(0.0, seconds))
        if not ready:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:
            return False
        self._raw += data
        return bool(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        os.close(self.master)
