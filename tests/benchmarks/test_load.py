"""The load benchmark on a small trace: what it tells, and what it calls a failure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import load
from penstock.errors import OverloadedError
from tests.server.conftest import checkpoint  # noqa: F401
from tests.server.harness import Server, open_model

ROWS = 24


def trace(folder: Path) -> Path:
    path = folder / "trace.csv"
    rows = [f"2023-11-16 18:15:{10 + i}.1234567,{40 + i},{20 + i}" for i in range(ROWS)]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    return path


def run(server: Server, folder: Path, *more: str) -> tuple[int, dict[str, Any]]:
    out = folder / "out.json"
    rate = ["--rate", "60", "--seconds", str(ROWS / 60), "--shorter", "2", "--disconnects", "0.3"]
    status = load.main(["--trace", str(trace(folder)), "--url", server.url, "--out", str(out), *rate, *more])
    return status, json.loads(out.read_text())


@pytest.fixture
def fresh(checkpoint):  # noqa: F811
    llm = open_model(checkpoint, max_num_seqs=4)
    with Server(llm) as server:
        yield server
    llm.close()


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "LOWEST", 0)
    monkeypatch.setattr(load, "HIGHEST", 255)


def refuse(state: object, client: str) -> None:
    raise OverloadedError("full")


def test_everything_is_told_and_the_gauges_come_back(fresh, tmp_path, monkeypatch, capsys):
    small(monkeypatch)
    status, found = run(fresh, tmp_path)
    assert status == 0 and found["requests"] == ROWS and found["failed"] == 0
    assert found["left"] > 0 and found["gauges_after"] == found["gauges_before"]
    for name in ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms"):
        assert 0 <= found[name]["p50"] <= found[name]["p90"] <= found[name]["p99"], name
    assert "back at their baseline" in capsys.readouterr().out


def test_failures_and_refusals_are_told_apart(fresh, tmp_path, monkeypatch, capsys):
    small(monkeypatch)
    with monkeypatch.context() as full:
        full.setattr(type(fresh.state), "admit", refuse)
        status, found = run(fresh, tmp_path)
    assert status == 0 and set(found["statuses"]) == {"503"}, "refused, as a server may"
    monkeypatch.setattr(fresh.llm.model.executor, "run", lambda batch: 1 // 0)
    status, found = run(fresh, tmp_path, "--disconnects", "0")
    assert status == 1 and found["failed"] == ROWS
    assert "failed:" in capsys.readouterr().out


def test_a_trace_without_rows_is_refused(fresh, tmp_path):
    with pytest.raises(SystemExit, match="at least 2"):
        run(fresh, tmp_path, "--skip", str(ROWS))
