"""Steps op by op, each op shown to whoever watches: the profile, the values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.engine.engine import Engine
    from penstock.executors.base import Executor, Traced
    from penstock.types import Batch, StepOutput


class Watcher(Protocol):
    """Told of every step before it runs, and of every op after it ran."""

    def step(self, batch: Batch) -> None: ...

    def op(self, traced: Traced) -> None: ...


class Watched:
    """Stands before an executor and runs its steps in dynamic mode, which gives the same bits."""

    def __init__(self, executor: Executor, watchers: Sequence[Watcher]) -> None:
        self._executor, self._watchers = executor, watchers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def run(self, batch: Batch) -> StepOutput:
        for each in self._watchers:
            each.step(batch)
        return self._executor.trace(batch, self._tell)

    def _tell(self, traced: Traced) -> None:
        for each in self._watchers:
            each.op(traced)


def watch(engine: Engine, watchers: Sequence[Watcher]) -> None:
    """Everything that ``engine`` runs from now on is shown to ``watchers``."""
    engine.executor = Watched(engine.executor, watchers)
