"""Where a generation's time goes: every op of every step timed, in dynamic mode, beside what the machine allows.

A roofline: an op that moves so many bytes and computes so many operations takes at least the longer of both at the
measured limits; the last column is that time as a share of the time it took. Values that lie in cache are faster than
memory, so small ops, and small models, can pass 100 %.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.errors import ConfigError
from penstock.executors.costs import Cost, Costs

if TYPE_CHECKING:
    from penstock.executors.base import Executor, Traced
    from penstock.models.program import Op
    from penstock.types import Batch

PROBE_SECONDS = 0.1
"""For each of the limits."""


@dataclass(frozen=True, slots=True)
class Peaks:
    """The machine's limits: bytes a second, operations a second of each arithmetic."""

    read: float
    operations: Mapping[str, float]

    def least(self, cost: Cost) -> float:
        """Seconds that ``cost`` takes at the limits; an arithmetic that the CPU lacks is done in float32."""
        peak = self.operations.get(cost.arithmetic) or self.operations["f32"]
        return max(cost.bytes / self.read, cost.flops / peak)


@dataclass(slots=True)
class _Row:
    calls: int = 0
    seconds: float = 0.0
    bytes: float = 0.0
    flops: float = 0.0
    least: float = 0.0

    def add(self, calls: int, seconds: float, moved: float, flops: float, least: float) -> None:
        self.calls += calls
        self.seconds += seconds
        self.bytes += moved
        self.flops += flops
        self.least += least


class Profile:
    """Adds up calls, seconds, bytes and operations by kind of op, linears apart by what they are for; a watcher
    (``penstock.cli.watch``)."""

    def __init__(self, executor: Executor, peaks: Peaks | None) -> None:
        self.steps = 0
        self.tokens = 0
        self._peaks = peaks
        self._costs = Costs(executor.program, executor.held, executor.limits.kv_dtype)
        self._rows: defaultdict[str, _Row] = defaultdict(_Row)
        self._batch: Batch | None = None

    def step(self, batch: Batch) -> None:
        self.steps += 1
        self.tokens += batch.num_tokens
        self._batch = batch

    def op(self, traced: Traced) -> None:
        if self._batch is not None:
            cost = self._costs.of(traced, self._batch)
            least = self._peaks.least(cost) if self._peaks else 0.0
            self._rows[label(traced.op)].add(1, traced.seconds, cost.bytes, cost.flops, least)

    def lines(self) -> list[str]:
        """A table, dearest kind first."""
        whole = _Row()
        for row in self._rows.values():
            whole.add(row.calls, row.seconds, row.bytes, row.flops, row.least)
        rows = sorted(self._rows.items(), key=lambda pair: -pair[1].seconds)
        width = max([14, *(len(name) for name, _ in rows)])
        heads = (
            f"{'calls':>8} {'ms':>10} {'us a call':>10} {'share':>7} {'GB':>9} {'GFLOP':>9} {'GB/s':>8} {'GFLOP/s':>8}"
        )
        table = [f"{'op':<{width}} {heads} {'of limit':>9}"]
        table += [f"{name:<{width}} {_figures(row, whole.seconds)}" for name, row in [*rows, ("all", whole)]]
        table.append(f"in {self.steps} steps of {self.tokens} tokens, unfused")
        if self._peaks is not None:
            most = ", ".join(f"{kind} {1e-9 * peak:.0f}" for kind, peak in self._peaks.operations.items() if peak)
            table.append(f"limits, measured just before: read {1e-9 * self._peaks.read:.1f} GB/s; GFLOP/s: {most}")
        return table


def label(op: Op) -> str:
    """``linear:attn.q+k+v``: a linear's place in its layer; other ops by their kind."""
    if op.kind != "linear":
        return op.kind
    places = [re.sub(r"^layers\.\d+\.|\.weight$", "", name) for name in op.weights[::2]]
    first, *rest = [place.rpartition(".") for place in places]
    if any(place[0] != first[0] for place in rest):
        return f"linear:{'+'.join(places)}"
    return f"linear:{''.join(first)}{''.join(f'+{place[2]}' for place in rest)}"


def probe(executor: Executor) -> Peaks | None:
    """The limits of this machine with the executor's threads; None without the compiled part."""
    from penstock.executors.native.extension import extension

    info = executor.info
    try:
        found = extension().probe(info.threads, PROBE_SECONDS, info.isa if info.name == "native" else "")
    except ConfigError:
        return None
    peaks = {"f32": "f32_gflops", "bf16": "bf16_gflops", "i8": "int8_gops"}
    return Peaks(1e9 * found["read_gbs"], {kind: 1e9 * found[name] for kind, name in peaks.items()})


def _figures(row: _Row, total: float) -> str:
    share = 100 * row.seconds / total if total else 0.0
    per_second = 1e-9 / row.seconds if row.seconds else 0.0
    limit = f"{100 * row.least / row.seconds:.1f}%" if row.least and row.seconds else "-"
    return (
        f"{row.calls:>8} {1e3 * row.seconds:>10.2f} {1e6 * row.seconds / max(1, row.calls):>10.1f} {share:>6.1f}% "
        f"{1e-9 * row.bytes:>9.3g} {1e-9 * row.flops:>9.3g} {row.bytes * per_second:>8.3g} "
        f"{row.flops * per_second:>8.3g} {limit:>9}"
    )
