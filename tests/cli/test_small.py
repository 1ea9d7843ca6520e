"""``tokenize``, ``config show``, and progress of loading."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock.cli.load import LoadProgress, show_resolved
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


def test_each_phase_has_its_own_line(clock: _Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with LoadProgress() as progress:
        for phase in ("download", "load"):
            for step in range(1, 201):
                clock.now += 0.125
                progress(phase, step * 10**6, 200 * 10**6)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "download:  20% 41 MB of 200 MB, 8 MB/s, 20 s left"
    assert {line.partition(":")[0] for line in lines} == {"download", "load"}
    assert lines[-1] == "load: 100% 200 MB of 200 MB, 8 MB/s"
    assert 6 <= len(lines) <= 10


def test_quiet_loading(clock: _Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with LoadProgress(quiet=True) as progress:
        clock.now += 60
        progress("load", 1, 2)
    with LoadProgress() as progress:
        progress.stop()
        clock.now += 60
        progress("load", 1, 2)
    assert capsys.readouterr().err == ""


def test_the_start_up_table_is_wrapped_beside_its_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = {"executor": "native, avx512, 2 threads", "model": "x"}
    show_resolved(table)
    assert capsys.readouterr().err == "executor  native, avx512, 2 threads\nmodel     x\n"
    monkeypatch.setattr("penstock.cli.load.columns", lambda stream: 30)
    show_resolved(table)
    assert capsys.readouterr().err.splitlines()[:2] == ["executor  native, avx512, 2", "          threads"]
