"""``tokenize``, ``config show``, and progress of loading."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from penstock.cli import load
from penstock.cli.load import LoadProgress
from tests.cli.conftest import Run
from tests.cli.parrot import HELLO


def test_tokens_of_a_text(run: Run, parrot: Path) -> None:
    result = run("tokenize", "Hi", "-m", parrot)
    assert result.out == '      72  "H"\n     105  "i"\n2 tokens\n'
    assert run("tokenize", "你", "-m", parrot, "--count").out == "3\n"
    record = json.loads(run("tokenize", "-", "-m", parrot, "--json", stdin="a<|end|>\n").out)
    assert record == {"text": "a<|end|>", "count": 2, "token_ids": [97, 256 + len(HELLO)], "pieces": ["a", "<|end|>"]}


def test_text_of_tokens(run: Run, parrot: Path) -> None:
    ids = " ".join(str(256 + i) for i in range(len(HELLO)))
    assert run("tokenize", "--decode", ids, "-m", parrot).out == b"".join(HELLO).decode() + "\n"
    assert run("tokenize", "--decode", "one", "-m", parrot).code == 2
    refused = run("tokenize", "--decode", "99999", "-m", parrot)
    assert (refused.code, refused.out) == (2, "")
    assert "99999" in refused.err


def test_a_tokenizer_of_its_own(run: Run, parrot: Path) -> None:
    assert run("tokenize", "Hi", "--tokenizer", parrot, "-m", "/none", "--count").out == "2\n"
    assert run("tokenize", "Hi", "-m", "/none").code == 3


def test_settings_and_where_they_come_from(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_BLOCK_SIZE", "32")
    lines = [line.split() for line in run("config", "show", "--ctx-size", "8K").out.splitlines()]
    found = {line[0]: line[1:] for line in lines}
    assert found["max_model_len"] == ["8192", "--max-model-len"]
    assert found["block_size"] == ["32", "PENSTOCK_BLOCK_SIZE"]
    assert found["threads"] == ["0", "default"]
    assert json.loads(run("config", "--json").out)["cache"]["block_size"] == 32
    assert "did you mean 'show'" in run("config", "shwo").err


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    made = _Clock()
    monkeypatch.setattr("time.monotonic", made)
    return made


def test_loading_that_takes_no_time_says_nothing(clock: _Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with LoadProgress() as progress:
        for step in range(10):
            clock.now += 0.04
            progress("load", step, 10)
    assert capsys.readouterr() == ("", "")


def test_long_loading_says_a_line_now_and_then(clock: _Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with LoadProgress() as progress:
        for step in range(1, 201):
            clock.now += 0.1
            progress("load", step << 20, 200 << 20)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("load: ")
    assert lines[0].endswith(" of 200 MiB")
    assert lines[-1] == "load: 100 %, 200 MiB of 200 MiB"
    assert 3 <= len(lines) <= 6


def test_quiet_loading(clock: _Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with LoadProgress(quiet=True) as progress:
        clock.now += 60
        progress("load", 1, 2)
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(clock: _Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, int, int]] = []

    class Bar:
        def start(self) -> None: ...
        def stop(self) -> None:
            drawn.append(("stop", 0, 0))

        def add_task(self, phase: str, total: int) -> str:
            return phase

        def update(self, task: str, completed: int, total: int) -> None:
            drawn.append((task, completed, total))

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(load, "_bar", Bar)
    with LoadProgress() as progress:
        progress("download", 1, 4)
        clock.now += 1
        progress("download", 4, 4)
        progress("load", 2, 4)
        progress.stop()
    assert drawn == [("download", 4, 4), ("load", 2, 4), ("stop", 0, 0)]


def test_the_bar_is_one_that_rich_can_draw(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    bar = load._bar()
    bar.start()
    bar.update(bar.add_task("load", total=10), completed=10)
    bar.stop()
    assert "load" in capsys.readouterr().err
