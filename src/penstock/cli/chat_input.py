"""Where a chat's messages come from: a person at a terminal, or lines of a pipe.

Either way three quotes fence several lines::

    \"\"\"first
    second\"\"\"
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

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

    ``remember`` is told each message as it was typed, for the history; ``ask`` reads one line after a prompt, and
    needs colours ``marked`` in it if it edits the line.
    """

    def __init__(self, remember: Callable[[str], None], ask: Callable[[str], str] = input, marked: bool = True) -> None:
        self._remember, self._ask, self._marked = remember, ask, marked

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
        try:
            line = self._ask(prompt(shown, "green", sys.stdout, self._marked))
            line.encode("utf-8")
        except UnicodeError:
            raise RequestError("what was typed is not UTF-8 text; it is left out") from None
        return line


@contextmanager
def typing_ahead() -> Iterator[None]:
    """While inside, keys typed during an answer are not shown and wait for the next prompt. Ctrl-C still works."""
    import termios

    try:
        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
    except (termios.error, OSError, ValueError):
        yield
        return
    silent = [*before]
    silent[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(descriptor, termios.TCSANOW, silent)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


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
