"""Contestants take turns, line by line and round by round, each beside a probe of the machine of that moment."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks import machine
from benchmarks.contestant import BrokenError, Contestant
from benchmarks.workloads import Line, Sizes, measure

SLOW_START = 20.0
"""An engine that starts slower is started once only."""


class Progress:
    """Lines on stderr with the time since the beginning."""

    def __init__(self) -> None:
        self.begin = time.monotonic()

    def say(self, text: str) -> None:
        seconds = int(time.monotonic() - self.begin)
        print(f"[{seconds // 60:3}:{seconds % 60:02}] {text}", file=sys.stderr, flush=True)


@dataclass
class Record:
    """What was measured: probes, and runs that point at them."""

    probes: list[dict[str, float]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)


def run(
    contestants: Sequence[Contestant], lines: Sequence[Line], rounds: int, sizes: Sizes, threads: int,
    record: Record, progress: Progress,
) -> None:  # fmt: skip
    """Fill ``record``. Weights of one width take turns among themselves, since they are compared with each other."""
    pool = _Pool(contestants)
    try:
        for bits in sorted({one.format.bits for one in contestants}):
            group = [one for one in contestants if one.format.bits == bits]
            for turn in range(rounds):
                progress.say(f"{bits}-bit weights, round {turn + 1} of {rounds}: {', '.join(o.name for o in group)}")
                for line in lines:
                    record.probes.append(machine.probe(threads))
                    for one in group[turn % len(group) :] + group[: turn % len(group)]:
                        _one(one, pool, line, turn, sizes, record, progress)
            for one in group:
                one.stop()
    finally:
        for one in contestants:
            one.stop()


def _one(one: Contestant, pool: _Pool, line: Line, turn: int, sizes: Sizes, record: Record, progress: Progress) -> None:
    slow = bool(one.start_seconds) and one.start_seconds[-1] > SLOW_START
    if one.broken or (line.kind == "start" and slow):
        return
    watch, started = machine.Watch(pool.root), 0.0
    try:
        if line.kind == "start" or one.process is None:
            progress.say(f"  starting {one.name}")
            pool.make_room(one)
            started = one.start()
        if line.kind == "memory" and not one.fresh:
            return
        value = started if line.kind == "start" else measure(line, one.ask, turn, sizes)
    except (BrokenError, RuntimeError, OSError, ValueError) as error:
        one.broken = str(error)
        one.stop()
        progress.say(f"  {line.name:<10} {one.name:<28} failed: {error}")
        return
    if value is None:
        progress.say(f"  {line.name:<10} {one.name:<28} too noisy to measure")
        return
    others = watch.others()
    record.runs.append({
        "engine": one.name, "line": line.name, "round": turn, "value": round(value, 5), "others": round(others, 3),
        "probe": len(record.probes) - 1,
    })  # fmt: skip
    note = f"  (others used {100 * others:.0f} % of the machine)" if others > 0.05 else ""
    progress.say(f"  {line.name:<10} {one.name:<28} {value:10.3f} {line.unit}{note}")


class _Pool:
    """Keeps as many workers alive as memory allows."""

    def __init__(self, contestants: Sequence[Contestant]) -> None:
        self.contestants, self.root = contestants, os.getpid()

    def make_room(self, one: Contestant) -> None:
        """Stop those that were idle longest until ``one`` is likely to fit."""
        one.stop()
        live = sorted((o for o in self.contestants if o.process is not None), key=lambda o: o.used)
        for other in live:
            if machine.available_bytes() > one.memory:
                return
            other.stop()
