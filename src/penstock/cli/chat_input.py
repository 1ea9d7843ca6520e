"""Where a chat's messages come from: a person at a terminal, or lines of a pipe.

Either way three quotes fence several lines::

    \"\"\"first
    second\"\"\"
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from penstock.errors import RequestError

FENCE = '"""'
MAX_LINE = 16 << 20
PROMPT = ">>> "


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
    """A line editor with history. Enter sends; Alt-Enter begins a new line, as does Enter between two fences."""

    def __init__(self) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.formatted_text import ANSI
        from prompt_toolkit.history import FileHistory, InMemoryHistory

        from penstock.cli.terminal import style

        path = history_file()
        self._session: PromptSession[str] = PromptSession(
            ANSI(style(PROMPT, "green", sys.stdout)),
            history=FileHistory(str(path)) if path else InMemoryHistory(),
            key_bindings=_bindings(),
            multiline=True,
            prompt_continuation="... ",
        )

    def read(self) -> str | None:
        try:
            return unfenced(self._session.prompt())
        except EOFError:
            return None


@contextmanager
def typing_ahead() -> Iterator[None]:
    """While inside, keys typed during an answer are not shown and wait for the next prompt. Ctrl-C still works."""
    import termios

    descriptor = sys.stdin.fileno()
    try:
        before = termios.tcgetattr(descriptor)
    except termios.error:
        yield
        return
    silent = [*before]
    silent[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(descriptor, termios.TCSANOW, silent)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def is_open(text: str) -> bool:
    """Whether ``text`` begins a fence that it does not end."""
    begun = text.lstrip()
    return begun.startswith(FENCE) and not begun[len(FENCE) :].rstrip().endswith(FENCE)


def unfenced(text: str) -> str:
    """What stands between the fences, else ``text`` itself."""
    inner = text.strip()
    if inner.startswith(FENCE):
        return inner.removeprefix(FENCE).removesuffix(FENCE).strip("\n")
    return text


def history_file() -> Path | None:
    """The history in the user's state folder, readable by nobody else; None where there cannot be one."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    path = Path(base).expanduser() / "penstock" / "history"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600))
        path.chmod(0o600)
    except OSError:
        return None
    return path


def _bindings() -> Any:
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    bindings = KeyBindings()

    @bindings.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings
