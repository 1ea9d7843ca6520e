"""Who is measured when, with contestants that only say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmarks.contestant import BrokenError, Contestant
from benchmarks.run import Progress, Record, run
from benchmarks.workloads import LINES, Requests, Sizes

from benchmarks import machine

GB = 1 << 30


class Fake(Contestant):
    """``takes`` seconds to start, ``memory`` bytes to live; ``events`` is shared by all."""

    events: list[str]
    takes: float
    needs: int

    @property
    def memory(self) -> int:
        return self.needs

    def start(self) -> float:
        self.stop()
        self.events.append(f"start {self.name}")
        self.process = object()  # type: ignore[assignment]
        self.start_seconds.append(self.takes)
        self.used, self.warm = len(self.events), set()
        return self.takes

    def stop(self) -> None:
        if self.process is not None:
            self.events.append(f"stop {self.name}")
        self.process = None

    def _ask(self, requests: Requests) -> dict[str, Any]:
        self.used = len(self.events)
        tokens = sum(n for _, n in requests)
        return {"seconds": 1.0 + tokens, "tokens": tokens, "peak_mb": 100.0}


def fake(name: str, events: list[str], takes: float = 1.0, needs: int = GB) -> Fake:
    engine, _, fmt = name.partition(":")
    one = Fake(engine, fmt, "python", Path("x"), Path("log"), Sizes(), 1)
    one.events, one.takes, one.needs = events, takes, needs
    return one


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    found = {"free": 64 * GB}
    monkeypatch.setattr(machine, "probe", lambda threads: {"read_gbs": 1.0, "f32_gflops": 1.0})
    monkeypatch.setattr(machine, "available_bytes", lambda: found["free"])
    return found


def go(contestants: list[Fake], lines: list[str], rounds: int) -> Record:
    record = Record()
    run(contestants, [LINES[name] for name in lines], rounds, Sizes(), 1, record, Progress())
    return record


def test_weights_of_one_width_take_turns(room: dict[str, int]) -> None:
    events: list[str] = []
    names = ["penstock:int8", "penstock:int4", "openvino:int8", "openvino:int4"]
    record = go([fake(name, events) for name in names], ["ttft", "prefill"], 2)
    order = [(r["line"], r["engine"].removeprefix("penstock:").removeprefix("openvino:")) for r in record.runs]
    assert [fmt for _, fmt in order] == ["int4"] * 8 + ["int8"] * 8
    engines = [r["engine"].partition(":")[0] for r in record.runs[:8]]
    assert engines == ["penstock", "openvino"] * 2 + ["openvino", "penstock"] * 2  # the first of a round changes
    assert [r["line"] for r in record.runs[:4]] == ["ttft", "ttft", "prefill", "prefill"]
    assert len(record.probes) == 8
    assert [r["probe"] for r in record.runs[:4]] == [0, 0, 1, 1]
    assert sum(event.startswith("start") for event in events) == 4  # all stay alive between turns


def test_slow_starters_start_once_and_memory_is_of_fresh_processes(room: dict[str, int]) -> None:
    events: list[str] = []
    quick, slow = fake("penstock:bf16", events), fake("vllm:bf16", events, takes=60.0)
    record = go([quick, slow], ["start", "memory", "ttft"], 3)
    found = {(r["line"], r["engine"], r["round"]) for r in record.runs}
    assert {turn for line, engine, turn in found if (line, engine) == ("start", "penstock:bf16")} == {0, 1, 2}
    assert {turn for line, engine, turn in found if (line, engine) == ("memory", "penstock:bf16")} == {0, 1, 2}
    assert {turn for line, engine, turn in found if (line, engine) == ("start", "vllm:bf16")} == {0}
    assert {turn for line, engine, turn in found if (line, engine) == ("memory", "vllm:bf16")} == {0}
    assert {turn for line, engine, turn in found if (line, engine) == ("ttft", "vllm:bf16")} == {0, 1, 2}


def test_the_longest_idle_make_room(room: dict[str, int]) -> None:
    events: list[str] = []
    room["free"] = 2 * GB
    contestants = [fake(f"penstock:{fmt}", events, needs=3 * GB) for fmt in ("awq", "gptq")]
    record = go(contestants, ["ttft", "prefill"], 1)
    assert len(record.runs) == 4
    assert events[:3] == ["start penstock:awq", "stop penstock:awq", "start penstock:gptq"]


def test_one_that_breaks_is_left_alone(room: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    good, bad = fake("penstock:bf16", events), fake("transformers:bf16", events)

    def fail(requests: Requests) -> dict[str, Any]:
        raise BrokenError("no answer")

    monkeypatch.setattr(bad, "_ask", fail)
    record = go([good, bad], ["ttft", "prefill"], 2)
    assert [r["engine"] for r in record.runs] == ["penstock:bf16"] * 4
    assert bad.broken == "no answer"
    assert events.count("start transformers:bf16") == 1
    assert good.process is None  # all are stopped in the end


def test_a_first_batch_of_a_size_goes_before(room: dict[str, int]) -> None:
    asked: list[int] = []
    one = fake("penstock:bf16", [])
    one._ask = lambda requests: asked.append(len(requests)) or {}  # type: ignore[method-assign,func-returns-value]
    for count in (1, 4, 4, 1, 8):
        one.ask([([1], 1)] * count)
    assert asked == [1, 4, 4, 4, 1, 8, 8]
