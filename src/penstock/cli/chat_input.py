"""Where a chat's messages come from: a person at a terminal, or lines of a pipe.

Either way three quotes fence several lines::

    \"\"\"first
    second\"\"\"
"""

from __future__ import annotations

import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol, Self

from penstock.cli.terminal import prompt
from penstock.errors import RequestError

FENCE = '"""'
MAX_LINE = 16 << 20
PROMPT = ">>>"
CONTINUED = "..."


class Reader(Protocol):
    def read(self) -> str | None:
        """The next message, None at the end. ``KeyboardInterrupt``: Ctrl-C at the prompt."""


class LineReader:
    """Lines of stdin."""

    def read(self) -> str | None:
        text = self._line()
        while text is not None and is_open(text):
            more = self._line()
            if more is None:
                break
            text += more
        return None if text is None else unfenced(text.rstrip("\r\n"))

    def _line(self) -> str | None:
        raw = sys.stdin.buffer.readline(MAX_LINE)
        if not raw:
            return None
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RequestError(f"a line of stdin is not UTF-8 text (byte {error.start}); it is left out") from None


class TerminalReader:
    """Lines typed at a prompt. Enter sends, unless a fence is open or the line ends with a backslash.

    ``remember`` is told each message as it was typed, for the history; ``ask`` reads one line after a prompt. ``edits``
    says that it edits the line itself (``readline``): it then sets the terminal up, and needs colours marked.

    Inside ``with reader``, keys typed between two prompts are not shown and wait. Without an editor the kernel's own
    line mode stays on; with one it is off throughout, or a Ctrl-D typed too early would be lost.
    """

    def __init__(self, remember: Callable[[str], None], ask: Callable[[str], str] = input, edits: bool = True) -> None:
        self._remember, self._ask, self._edits = remember, ask, edits
        self._before: list[Any] | None = None

    def __enter__(self) -> Self:
        with suppress(termios.error, OSError, ValueError):
            self._before = termios.tcgetattr(sys.stdin.fileno())
        self._show_keys(False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._set(self._before)

    def _show_keys(self, shown: bool) -> None:
        if self._before is not None:
            modes = [*self._before]
            modes[3] &= ~((0 if shown else termios.ECHO) | (termios.ICANON if self._edits else 0))
            self._set(modes)

    def _set(self, modes: list[Any] | None) -> None:
        if modes is not None:
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, modes)

    def read(self) -> str | None:
        try:
            text = self._line(PROMPT)
            while is_open(text) or continues(text):
                text = (text if is_open(text) else text[:-1]) + "\n" + self._line(CONTINUED)
        except (EOFError, KeyboardInterrupt) as end:
            sys.stdout.write("\n")
            sys.stdout.flush()
            if isinstance(end, KeyboardInterrupt):
                raise
            return None
        if text.strip():
            self._remember(text)
        return unfenced(text)

    def _line(self, shown: str) -> str:
        self._show_keys(True)
        try:
            line = self._ask(prompt(shown, "green", sys.stdout, self._edits))
            line.encode("utf-8")
        except UnicodeError:
            raise RequestError("what was typed is not UTF-8 text; it is left out") from None
        finally:
            self._show_keys(False)
        return line


def is_open(text: str) -> bool:
    """Whether ``text`` begins a fence that it does not end."""
    begun = text.lstrip()
    return begun.startswith(FENCE) and not begun[len(FENCE) :].rstrip().endswith(FENCE)


def continues(text: str) -> bool:
    """Whether ``text`` ends with a backslash that asks for another line; two backslashes are just that."""
    return (len(text) - len(text.rstrip("\\"))) % 2 == 1 and not text.lstrip().startswith(FENCE)


def unfenced(text: str) -> str:
    """What stands between the fences, else ``text`` itself."""
    inner = text.strip()
    if inner.startswith(FENCE):
        return inner.removeprefix(FENCE).removesuffix(FENCE).strip("\n")
    return text
