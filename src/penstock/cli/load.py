"""Loading a model for a command: progress while it lasts, the table of what was resolved when it is done."""

from __future__ import annotations

import argparse
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from penstock.cli.options import engine_kwargs
from penstock.cli.terminal import note
from penstock.memory import human_bytes

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from penstock.llm import LLM

PATIENCE = 0.5
"""Seconds of loading before progress is shown."""
LINE_EVERY = 5.0
"""Seconds between two lines where there is no terminal to draw a bar on."""


class LoadProgress:
    """A bar on a terminal, a line now and then elsewhere; nothing at all when loading takes no time."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._started = self._told = time.monotonic()
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self.quiet or now - self._started < PATIENCE:
            return
        if sys.stderr.isatty():
            self._draw(phase, done, total)
        elif now - self._told >= LINE_EVERY or (done >= total and self._told > self._started):
            self._told = now
            share = f"{100 * done // total} %, " if total else ""
            print(f"{phase}: {share}{human_bytes(done)} of {human_bytes(total)}", file=sys.stderr, flush=True)

    def _draw(self, phase: str, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = _bar()
            self._bar.start()
        if phase not in self._tasks:
            self._tasks[phase] = self._bar.add_task(phase, total=total)
        self._bar.update(self._tasks[phase], completed=done, total=total)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """No more progress: take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        self.quiet = True


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    return Progress(
        TextColumn("{task.description:<8}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(),
        TimeRemainingColumn(), console=Console(file=sys.stderr), transient=True,
    )  # fmt: skip


def load(args: argparse.Namespace, **more: Any) -> LLM:
    """The model that the options name, loaded; ``more`` are further engine options."""
    from penstock.llm import LLM

    options = engine_kwargs(args)
    quiet = getattr(args, "quiet", False)
    with LoadProgress(quiet) as progress:
        llm = LLM(options.pop("model", None), progress=progress, **{**options, **more})
    if not quiet:
        show_resolved(llm.model.resolved)
    return llm


def show_resolved(resolved: dict[str, str]) -> None:
    """The start-up table, on stderr."""
    width = max((len(name) for name in resolved), default=0)
    for name, value in resolved.items():
        note(f"{name:<{width}}  {value}")
