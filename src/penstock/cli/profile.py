"""Where a generation's time goes: every op of every step timed, in dynamic mode."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from penstock.engine.engine import Engine
    from penstock.executors.base import Executor, Traced
    from penstock.types import Batch, StepOutput


class Profile:
    """Stands before an executor, runs its steps op by op, and adds up seconds by kind of op."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.steps = 0
        self.tokens = 0
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: defaultdict[str, int] = defaultdict(int)

    @classmethod
    def of(cls, engine: Engine) -> Self:
        """A profile of everything ``engine`` runs from now on."""
        made = cls(engine.executor)
        engine.executor = made
        return made

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def run(self, batch: Batch) -> StepOutput:
        self.steps += 1
        self.tokens += batch.num_tokens
        return self._executor.trace(batch, self._note)

    def lines(self) -> list[str]:
        """A table, dearest kind first."""
        total = sum(self.seconds.values())
        rows = sorted(self.seconds.items(), key=lambda pair: -pair[1])
        table = [f"{'op':<14} {'calls':>8} {'ms':>10} {'us a call':>10} {'share':>7}"]
        for kind, seconds in rows:
            calls = self.calls[kind]
            share = 100 * seconds / total if total else 0.0
            table.append(f"{kind:<14} {calls:>8} {1e3 * seconds:>10.2f} {1e6 * seconds / calls:>10.1f} {share:>6.1f}%")
        table.append(f"{'all':<14} {sum(self.calls.values()):>8} {1e3 * total:>10.2f} "
                     f"in {self.steps} steps of {self.tokens} tokens, unfused")  # fmt: skip
        return table

    def _note(self, traced: Traced) -> None:
        kind = str(getattr(traced.op, "kind", type(traced.op).__name__))
        self.seconds[kind] += traced.seconds
        self.calls[kind] += 1
