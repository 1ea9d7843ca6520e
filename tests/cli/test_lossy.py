"""stderr that takes everything: in order, from signal handlers in the middle of a line too, and from full disks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.cli.terminal import lossy


def test_what_is_said_arrives(tmp_path: Path) -> None:
    with (tmp_path / "said").open("w", encoding="utf-8") as file:
        stream = lossy(file)
        print("一", "b" * 100_000, file=stream)
        stream.write("half")
        stream.flush()
        assert not stream.isatty()
        assert stream.fileno() == file.fileno()
    assert (tmp_path / "said").read_text(encoding="utf-8") == "一 " + "b" * 100_000 + "\nhalf"


def test_a_full_disk_and_a_closed_pipe_lose_it() -> None:
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w", encoding="utf-8") as full:
            print("lost", file=lossy(full), flush=True)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as gone:
        print("lost", file=lossy(gone), flush=True)


HANDLERS = """
import signal, sys
from penstock.cli.terminal import lossy
sys.stderr = lossy(sys.stderr)
signal.signal(signal.SIGALRM, lambda *_: print("signal", file=sys.stderr))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0005)
for i in range(20000):
    print("line", file=sys.stderr)
signal.setitimer(signal.ITIMER_REAL, 0)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers here")
def test_a_signals_handler_may_speak_while_a_line_is_written() -> None:
    done = subprocess.run([sys.executable, "-c", HANDLERS], stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stderr.split("\n")
    assert lines.count("line") > 15_000
    assert "reentrant" not in done.stderr
