"""What the terminal can do, and colour only where it can."""

from __future__ import annotations

import os
import sys
from typing import TextIO

STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def coloured(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal that shows colour, and nobody asked for none (https://no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def style(text: str, name: str, stream: TextIO) -> str:
    """``text`` in a style of ``STYLES`` where ``stream`` shows it."""
    return f"\x1b[{STYLES[name]}m{text}\x1b[0m" if coloured(stream) else text


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
