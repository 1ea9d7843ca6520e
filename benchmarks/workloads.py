"""What is measured, by token id, greedy, EOS ignored; and how engines are asked in turn."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

BATCHES = (1, 4, 16, 32)
PREFILL = 2048
STEPS = 32


def ids(count: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randint(100, 3999) for _ in range(count)]


def mixed(seed: int, count: int = 32) -> list[tuple[list[int], int]]:
    """Prompts of 32 to 256 tokens, answers of 64 to 192; the same lengths in every run."""
    lengths = random.Random(3000)
    sizes = [(lengths.randint(32, 256), lengths.randint(64, 192)) for _ in range(count)]
    return [(ids(p, 31000 + 100 * seed + i), n) for i, (p, n) in enumerate(sizes)]


@dataclass
class Engine:
    """A worker process and what was measured of it."""

    name: str
    model: str
    dtype: str
    threads: int
    runs: dict[str, list[float]] = field(default_factory=dict)

    def start(self) -> None:
        arguments = [self.name, self.model, self.dtype, str(self.threads)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.note("load_s", self.read()["loaded"])
        self.ask({"requests": [(ids(16, 1), 4)]})

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} stopped with exit code {self.process.wait()}")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self.read()

    def seconds(self, requests: list[tuple[list[int], int]]) -> float:
        return float(self.ask({"requests": requests})["seconds"])

    def note(self, key: str, value: float) -> None:
        self.runs.setdefault(key, []).append(value)

    def median(self, key: str) -> float | None:
        return statistics.median(self.runs[key]) if key in self.runs else None

    def stop(self) -> None:
        self.note("peak_mb", self.ask({"rss": True})["peak_mb"])
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(engine: Engine, round_: int, prefill: int = PREFILL) -> None:
    """One round of everything. Rates are differences of two runs, so that start and prompt do not count."""
    one = engine.seconds([(ids(128, 50 + round_), 1)])
    many = engine.seconds([(ids(128, 1000 + round_), 65)])
    engine.note("ttft_s", one)
    engine.note("decode_1", 64 / (many - one))
    engine.note("prefill", prefill / engine.seconds([(ids(prefill, 2000 + round_), 1)]))
    for batch in BATCHES[1:]:
        first = engine.seconds([(ids(64, 5000 + 64 * batch + i + round_), 1) for i in range(batch)])
        last = engine.seconds([(ids(64, 7000 + 64 * batch + i + round_), STEPS + 1) for i in range(batch)])
        engine.note(f"decode_{batch}", batch * STEPS / (last - first))
    requests = mixed(round_)
    engine.note("mixed", sum(n for _, n in requests) / engine.seconds(requests))
