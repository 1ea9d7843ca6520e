"""What the terminal can do, and colour only where it can."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import unicodedata
from typing import Any, TextIO, cast

STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class _Lossy(io.RawIOBase):
    """A descriptor that takes everything; what cannot be written is lost."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        """All of it. No buffer stands before this: one refuses what a signal's handler says in the middle of it."""
        rest = memoryview(data).cast("B")
        with contextlib.suppress(OSError):
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        return len(data)


def lossy(stream: TextIO) -> TextIO:
    """``stream`` as it is, but that no write to it fails: for what is said beside the output."""
    try:
        raw = _Lossy(stream.fileno())
    except (OSError, ValueError):
        return stream
    return io.TextIOWrapper(cast(Any, raw), stream.encoding, stream.errors, line_buffering=True)


def coloured(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal that shows colour, and nobody asked for none (https://no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def style(text: str, name: str, stream: TextIO) -> str:
    """``text`` in a style of ``STYLES`` where ``stream`` shows it."""
    return f"\x1b[{STYLES[name]}m{text}\x1b[0m" if coloured(stream) else text


def prompt(text: str, name: str, stream: TextIO, marked: bool) -> str:
    """``text`` and a space as a prompt. ``marked`` for ``readline``: it edits in the wrong column unless told what
    takes no room. The space stands outside, because libedit loses marks after the last character.
    """
    shown = style(text, name, stream)
    return (re.sub("\x1b\\[[0-9;]*m", lambda code: f"\x01{code[0]}\x02", shown) if marked else shown) + " "


def note(text: str) -> None:
    """A line for the user beside the output: on stderr, dimmed."""
    print(style(text, "dim", sys.stderr), file=sys.stderr, flush=True)


def write(text: str) -> None:
    """Text to stdout, visible at once. One call is one write of whole characters."""
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()


def visible(text: str) -> str:
    """``text`` of a model without control characters that could drive a terminal; line breaks and tabs stay."""
    return "".join(c for c in text if c in "\n\t" or (c >= " " and not "\x7f" <= c <= "\x9f"))


def columns(stream: TextIO) -> int:
    """Columns of the terminal behind ``stream``; without limit where it is none."""
    try:
        return max(40, os.get_terminal_size(stream.fileno()).columns or 80) if stream.isatty() else sys.maxsize
    except (OSError, ValueError):
        return sys.maxsize


def cells(text: str) -> int:
    """Columns that ``text`` takes: two for a Chinese character, none for a combining mark."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def wrap(text: str, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` columns, broken at spaces; a longer word stands alone."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and cells(lines[-1]) + 1 + cells(word) > width:
            lines.append(word)
        else:
            lines[-1] += (" " if lines[-1] else "") + word
    return lines
