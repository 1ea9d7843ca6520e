"""Loading a model for a command: progress while it lasts, the table of what was resolved when it is done."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from penstock.cli.options import engine_kwargs
from penstock.cli.parser import Parser
from penstock.cli.terminal import columns, style, wrap
from penstock.progress import Progress

if TYPE_CHECKING:
    from penstock.llm import LLM


class LoadProgress:
    """One progress line a phase (``download``, ``load``); nothing at all when loading takes no time."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._line: Progress | None = None
        self._phase = ""

    def __call__(self, phase: str, done: int, total: int) -> None:
        if self.quiet:
            return
        if self._line is None or phase != self._phase:
            self._take_away()
            self._line, self._phase = Progress(total, phase, "B", start=done), phase
        self._line.update(done, total)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """No more progress: take the line away."""
        self._take_away()
        self.quiet = True

    def _take_away(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None


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


def adapter_option(parser: Parser) -> None:
    parser.option("adapter", "answer with this LoRA or prefix: NAME of one in --adapters, or NAME=DIR, or DIR",
                  synonyms=("lora", "lora-path", "prefix-path"), metavar="NAME[=DIR]")  # fmt: skip


def take_adapter(args: argparse.Namespace) -> None:
    """Have ``--adapter NAME=DIR`` loaded, and leave its name in ``args.adapter`` (None: there is none)."""
    text = getattr(args, "adapter", None)
    args.adapter = text
    if text is None:
        return
    name, equals, place = text.partition("=")
    if not equals and ("/" in text or Path(text).expanduser().exists()):
        name, place = Path(text).expanduser().resolve().name, text
    args.adapter = name
    if place:
        before = getattr(args, "adapters", "")
        args.adapters = f"{before},{name}={place}" if before else f"{name}={place}"


def show_resolved(resolved: dict[str, str]) -> None:
    """The start-up table, on stderr: names dimmed, values wrapped beside them."""
    width = max((len(name) for name in resolved), default=0) + 2
    for name, value in resolved.items():
        first, *more = wrap(value, columns(sys.stderr) - width)
        print(style(f"{name:<{width}}", "dim", sys.stderr) + first, file=sys.stderr)
        for line in more:
            print(" " * width + line, file=sys.stderr)
    sys.stderr.flush()
