"""The benchmark end to end on the tiny shape, with penstock alone."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.contestant import BrokenError, Contestant, shortened
from benchmarks.workloads import Sizes

from benchmarks import cpu, machine

LINES = ["start", "memory", "decode-1", "decode-4", "prefill"]
SURE = [line for line in LINES if not line.startswith("decode")]
"""Decode is a difference of two times, of so short runs perhaps none."""
SMALL = Sizes(steps=8, prefill=64, mixed=2)
PROBE = {
    "read_gbs": 40.0,
    "read_usual_gbs": 36.0,
    "read_plain_gbs": 30.0,
    "f32_gflops": 200.0,
    "bf16_gflops": 400.0,
    "int8_gops": 800.0,
}


@pytest.fixture(scope="module", autouse=True)
def less_work() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "QUICK", SMALL)
        patch.setattr(machine, "probe", lambda threads: dict(PROBE))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def ran(folder: Path) -> dict[str, Any]:
    code = cpu.main([
        "--shape", "tiny", "--quick", "--threads", "1", "--lines", ",".join(LINES),
        "--engines", "penstock:bf16,penstock:int4,llamacpp:q8_0", "--peer-python", f"llamacpp={folder / 'none'}",
        "--models", str(folder / "models"), "--out", str(folder / "tiny.json"), "--markdown", str(folder / "tiny.md"),
    ])  # fmt: skip
    assert code == 0
    found: dict[str, Any] = json.loads((folder / "tiny.json").read_text())
    return found


def test_every_line_of_every_engine_is_measured(ran: dict[str, Any]) -> None:
    measured = {(run["engine"], run["line"]) for run in ran["runs"]}
    engines = ("penstock:bf16", "penstock:int4")
    assert {(engine, line) for engine in engines for line in SURE} <= measured
    assert measured <= {(engine, line) for engine in engines for line in LINES}
    assert all(run["value"] > 0 for run in ran["runs"])
    assert all(ran["probes"][run["probe"]]["read_gbs"] > 0 for run in ran["runs"])
    assert {name: info["bits"] for name, info in ran["engines"].items()} == {"penstock:bf16": 16, "penstock:int4": 4}
    sizes = {name: info["weight_bytes"] for name, info in ran["engines"].items()}
    assert sizes["penstock:int4"] < 0.7 * sizes["penstock:bf16"]


def test_a_peer_that_is_not_there_is_named_with_its_remedy(ran: dict[str, Any], folder: Path) -> None:
    (text,) = ran["skipped"]
    assert text.startswith("llamacpp")
    assert "pip install llama-cpp-python" in text
    assert "--peer-python llamacpp=" in text
    assert text in (folder / "tiny.md").read_text()


def test_nothing_kept_names_the_machine_s_folders(ran: dict[str, Any], folder: Path) -> None:
    for name in ("tiny.json", "tiny.svg", "tiny.md"):
        text = (folder / name).read_text()
        assert str(folder / "models") not in text
        assert str(Path.home()) not in text


def test_table_and_pictures(ran: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cpu.main(["--report", str(folder / "tiny.json")]) == 0
    text = capsys.readouterr().out
    assert "process start to first token (128 in), s" in text
    assert text.count("penstock:") == len(ran["runs"])
    root = ET.fromstring((folder / "tiny.svg").read_text())
    bars = [e for e in root.iter("{http://www.w3.org/2000/svg}rect") if e.get("fill") != "white"]
    assert len(bars) == len(ran["runs"])
    assert (folder / "tiny.md").read_text().startswith("### tiny\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--lines", "decode-3"], "no line 'decode-3'; there are start, memory"),
        (["--engines", "llama"], "no engine 'llama'; there are penstock, llamacpp"),
        (["--engines", "vllm:q4_0"], "vllm has no format 'q4_0'; it has bf16"),
        (["--peer-python", "llamacpp"], "write NAME=PYTHON"),
        (["--shape", "huge"], "invalid choice: 'huge'"),
    ],
)
def test_wrong_wishes(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cpu.main(arguments)
    assert stop.value.code == 2
    assert text in capsys.readouterr().err


def test_a_worker_that_fails_says_why(tmp_path: Path) -> None:
    import sys

    (tmp_path / "broken").mkdir()
    one = Contestant("penstock", "bf16", sys.executable, tmp_path / "broken", tmp_path / "log", SMALL, 1)
    with pytest.raises(BrokenError, match=r"CheckpointError|ConfigError"):
        one.start()
    one.stop()
    assert one.process is None


def test_the_probe_measures_this_machine() -> None:
    from penstock import _native

    found = {name: value for name, value in _native.probe(1, 0.001).items() if isinstance(value, float)}
    assert set(found) == set(PROBE)
    assert found["read_gbs"] >= found["read_usual_gbs"] > 0 and found["read_plain_gbs"] > 0 and found["f32_gflops"] > 0
    facts = machine.facts(2)
    assert facts["cpu"] and facts["threads"] == 2 and facts["memory_gb"] > 0
    assert machine.available_bytes() > 0
    assert 0 <= machine.Watch(1).others() <= 1


def test_messages_that_are_kept_have_no_folders() -> None:
    assert shortened("cannot open /srv/models/x-1.gguf:\n no such file") == "cannot open x-1.gguf: no such file"
    assert shortened("2 / 3 of a/b") == "2 / 3 of a/b"
    assert len(shortened("x " * 400)) == 300


def test_a_failed_engine_does_not_stop_the_others(
    ran: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Contestant.start

    def fail(self: Contestant) -> float:
        if self.fmt == "int8":
            raise BrokenError("out of luck")
        return start(self)

    monkeypatch.setattr(Contestant, "start", fail)
    out = folder / "partly.json"
    assert cpu.main([
        "--shape", "tiny", "--quick", "--threads", "1", "--lines", "ttft", "--engines",
        "penstock:int8,penstock:bf16", "--models", str(folder / "models"), "--out", str(out),
    ]) == 0  # fmt: skip
    result = json.loads(out.read_text())
    assert {run["engine"] for run in result["runs"]} == {"penstock:bf16"}
    assert result["skipped"] == ["penstock:int8 stopped: out of luck"]
