"""The progress line: silent when quick, one line on a terminal, a few elsewhere."""

from __future__ import annotations

import io
import re
import sys
from types import SimpleNamespace

import pytest

from penstock.progress import Progress, clock

MB = 10**6


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("time.monotonic", made)
    return made


class Screen(io.StringIO):
    """A terminal that does not know its size."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.shows

    shows = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    made = Screen()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("penstock.progress.sys", SimpleNamespace(stderr=made))
    return made


def run(time: Clock, bar: Progress, seconds: float, total: int) -> None:
    """``total`` done in ``seconds``, told a hundred times."""
    for step in range(1, 101):
        time.now += seconds / 100
        bar.update(total * step // 100)
    bar.close()


def test_quick_work_is_silent(time: Clock, screen: Screen) -> None:
    run(time, Progress(100, "load"), 0.45, 100)
    assert screen.getvalue() == ""


def test_a_line_that_is_rewritten_and_taken_away(time: Clock, screen: Screen) -> None:
    run(time, Progress(200 * MB, "load", "B"), 12.5, 200 * MB)
    drawn = screen.getvalue().split("\r\x1b[K")
    assert "\n" not in screen.getvalue()
    assert drawn[0] == drawn[-1] == ""
    half = next(line for line in drawn if "50%" in line)
    assert half == f"load {'█' * 12}{'░' * 12}  50% 100 MB of 200 MB, 16 MB/s, 6 s left"
    assert drawn[-2].endswith("100% 200 MB of 200 MB, 16 MB/s")
    assert 90 <= len(drawn) <= 102


def test_a_narrow_terminal_gets_no_bar(time: Clock, screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setattr(screen, "fileno", lambda: 2)
    for columns in (20, 50, 60, 80, 200):
        monkeypatch.setattr("os.get_terminal_size", lambda fd, columns=columns: os.terminal_size((columns, 24)))
        run(time, Progress(123 * MB, "download", "B"), 3000, 123 * MB)
        lines = re.split(r"\r\x1b\[K", screen.getvalue())
        assert max(map(len, lines)) < columns
        assert lines[-2].startswith("download")
        if columns in (20, 80, 200):
            assert any("█" in line for line in lines) == (columns >= 80)
        screen.seek(0)
        screen.truncate()


def test_ascii_where_the_terminal_has_no_blocks(time: Clock, screen: Screen) -> None:
    screen.shows = "ascii"
    run(time, Progress(10, "load"), 10, 10)
    assert screen.getvalue().isascii()
    assert "####" in screen.getvalue()


@pytest.mark.parametrize("term", ["dumb", None])
def test_plain_lines_elsewhere(
    time: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, term: str | None
) -> None:
    if term:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        monkeypatch.setenv("TERM", term)
    run(time, Progress(1000, "requests"), 21, 1000)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("%")[0] for line in lines] == [
        "requests:  24", "requests:  48", "requests:  72", "requests:  96", "requests: 100",
    ]  # fmt: skip
    assert lines[0] == "requests:  24% 240 of 1000, 48/s, 16 s left"


def test_what_was_there_before_counts_as_done_only(time: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress(10_000 * MB, "download", "B", start=8000 * MB)
    time.now += 10
    bar.update(8500 * MB)
    assert capsys.readouterr().err == "download:  85% 8.5 GB of 10 GB, 50 MB/s, 30 s left\n"


def test_nothing_known_yet(time: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress(0, "download", "B")
    time.now += 6
    bar.update(3 * MB)
    time.now += 6
    bar.update(0, 6 * MB)
    time.now += 6
    bar.update(7 * MB, 6 * MB)
    assert capsys.readouterr().err.splitlines() == [
        "download: 3 MB, 500 kB/s", "download:   0% 0 B of 6 MB", "download: 100% 7 MB of 6 MB, 389 kB/s",
    ]  # fmt: skip


def test_units(time: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for done, shown in ((999, "999 B"), (999_900, "1 MB"), (1_500_000, "1.5 MB"), (2_345_000_000, "2.35 GB")):
        bar = Progress(done, "x", "B")
        time.now += 6
        bar.update(done)
        assert f"100% {shown} of {shown}" in capsys.readouterr().err
    assert [clock(s) for s in (0, 59, 200, 7500)] == ["1 s", "59 s", "3 min 20 s", "2 h 05 min"]
