"""Editing of the line that is typed, through the standard library's ``readline``: GNU's, libedit's, or none at all."""

from __future__ import annotations

import importlib
import locale
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

KEPT = 1000
"""Messages in the history file; more are dropped, oldest first, when a chat begins."""
MAX_HISTORY_BYTES = 16 << 20
DELIMITERS = " \t\n"

Complete = Callable[[str, str], Sequence[str]]
"""Given the line up to the word, and the word: what the word may become."""


class LineEditor:
    """Sets ``readline`` up for a chat. Without ``readline`` lines are read all the same, unedited."""

    def __init__(self, history: Path | None, complete: Complete) -> None:
        self._path, self._last = history, ""
        self._readline = _readline()
        self._matches: Sequence[str] = ()
        self._complete = complete
        if self._readline is not None:
            _measure_in_utf8()
            self._bind(self._readline)
            for entry in read_history(history):
                self._readline.add_history(entry)
                self._last = entry

    @property
    def edits(self) -> bool:
        return self._readline is not None

    def remember(self, text: str) -> None:
        """Keep ``text``, unless it repeats the last one."""
        if text == self._last:
            return
        self._last = text
        if self._readline is not None:
            self._readline.add_history(text)
        if self._path is not None:
            append_history(self._path, text)

    def _bind(self, readline: Any) -> None:
        readline.set_auto_history(False)
        readline.set_completer_delims(DELIMITERS)
        readline.set_completer(self._match)
        if is_libedit(readline):
            readline.parse_and_bind("bind ^I rl_complete")
        else:
            readline.parse_and_bind("tab: complete")
            readline.parse_and_bind("set enable-bracketed-paste on")  # Python sets it off: pasted lines are one message
            for enter in ("m", "j"):  # Alt-Enter: a line break
                readline.parse_and_bind(rf'"\e\C-{enter}": "\C-v\C-j"')

    def _match(self, word: str, state: int) -> str | None:
        """What ``readline`` asks for: the ``state``-th completion, None after the last. An error would be unseen."""
        if state == 0:
            begin = self._readline.get_begidx()
            self._matches = self._complete(self._readline.get_line_buffer()[:begin], word)
        return self._matches[state] if state < len(self._matches) else None


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


def read_history(path: Path | None) -> list[str]:
    """What was typed, oldest first; a file that grew past twice ``KEPT`` messages is cut."""
    if path is None:
        return []
    try:
        if path.stat().st_size > MAX_HISTORY_BYTES:
            path.write_bytes(b"")
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
        if len(lines) > 2 * KEPT:
            path.write_text("".join(line + "\n" for line in lines[-KEPT:]), encoding="utf-8")
    except OSError:
        return []
    return [_unescaped(line) for line in lines[-KEPT:] if line]


def append_history(path: Path, text: str) -> None:
    """One message, one line: line breaks in it are written as ``\\n``. A disk that is full loses it."""
    line = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r") + "\n"
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError:
        return


def is_libedit(readline: Any) -> bool:
    return "libedit" in (readline.__doc__ or "") or getattr(readline, "backend", "") == "editline"


def _unescaped(line: str) -> str:
    return re.sub(r"\\(.)", lambda m: {"n": "\n", "r": "\r"}.get(m[1], m[1]), line)


def _readline() -> Any:
    try:
        return importlib.import_module("readline")
    except ImportError:
        return None


def _measure_in_utf8() -> None:
    """``readline`` counts columns by the C library's locale. In one that knows ASCII only, take UTF-8's."""
    if locale.nl_langinfo(locale.CODESET).upper() not in ("ANSI_X3.4-1968", "US-ASCII", "646"):
        return
    for name in ("C.UTF-8", "en_US.UTF-8"):
        try:
            locale.setlocale(locale.LC_CTYPE, name)
        except locale.Error:
            continue
        os.environ["LC_ALL"] = name
        return
