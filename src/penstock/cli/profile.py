"""Where a generation's time goes: every op of every step timed, in dynamic mode."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.executors.base import Traced
    from penstock.types import Batch


class Profile:
    """Adds up calls and seconds by kind of op; a watcher (``penstock.cli.watch``)."""

    def __init__(self) -> None:
        self.steps = 0
        self.tokens = 0
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: defaultdict[str, int] = defaultdict(int)

    def step(self, batch: Batch) -> None:
        self.steps += 1
        self.tokens += batch.num_tokens

    def op(self, traced: Traced) -> None:
        self.seconds[traced.op.kind] += traced.seconds
        self.calls[traced.op.kind] += 1

    def lines(self) -> list[str]:
        """A table, dearest kind first."""
        total = sum(self.seconds.values())
        table = [f"{'op':<14} {'calls':>8} {'ms':>10} {'us a call':>10} {'share':>7}"]
        for kind, seconds in sorted(self.seconds.items(), key=lambda pair: -pair[1]):
            calls = self.calls[kind]
            share = 100 * seconds / total if total else 0.0
            table.append(f"{kind:<14} {calls:>8} {1e3 * seconds:>10.2f} {1e6 * seconds / calls:>10.1f} {share:>6.1f}%")
        table.append(f"{'all':<14} {sum(self.calls.values()):>8} {1e3 * total:>10.2f} "
                     f"in {self.steps} steps of {self.tokens} tokens, unfused")  # fmt: skip
        return table
