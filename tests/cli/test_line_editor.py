"""The line editor without a terminal: history files, completion, GNU's readline and libedit's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.cli import line_editor
from penstock.cli.chat_input import TerminalReader, continues
from penstock.cli.line_editor import KEPT, LineEditor, append_history, read_history
from penstock.cli.terminal import cells, prompt, wrap
from penstock.errors import RequestError


class FakeReadline:
    """Notes what it is told; the line is always ``/set te``."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc
        self.bound: list[str] = []
        self.entries: list[str] = []
        self.complete: Any = None

    def set_auto_history(self, on: bool) -> None:
        assert not on

    def set_completer_delims(self, delimiters: str) -> None:
        assert "/" not in delimiters

    def set_completer(self, complete: Any) -> None:
        self.complete = complete

    def parse_and_bind(self, line: str) -> None:
        self.bound.append(line)

    def add_history(self, text: str) -> None:
        self.entries.append(text)

    def get_begidx(self) -> int:
        return 5

    def get_line_buffer(self) -> str:
        return "/set te"


@pytest.mark.parametrize(
    ("doc", "bound"),
    [("GNU readline", "tab: complete"), ("Importing this module enables … libedit readline.", "bind ^I rl_complete")],
)
def test_both_kinds_of_readline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, doc: str, bound: str) -> None:
    fake = FakeReadline(doc)
    monkeypatch.setattr(line_editor, "_readline", lambda: fake)
    path = tmp_path / "history"
    append_history(path, "before")
    asked: list[tuple[str, str]] = []

    def complete(before: str, word: str) -> list[str]:
        asked.append((before, word))
        return ["temperature ", "text "]

    editor = LineEditor(path, complete)
    assert fake.bound[0] == bound
    assert [fake.complete("te", n) for n in range(3)] == ["temperature ", "text ", None]
    assert asked == [("/set ", "te")]
    for text in ("before", "a", "a", "b\nc", "a"):
        editor.remember(text)
    assert fake.entries == read_history(path) == ["before", "a", "b\nc", "a"]


def test_without_readline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(line_editor, "_readline", lambda: None)
    LineEditor(tmp_path / "history", lambda before, word: []).remember("x")
    LineEditor(None, lambda before, word: []).remember("x")
    assert read_history(tmp_path / "history") == ["x"]


@given(entries=st.lists(st.text(st.characters(codec="utf-8"), min_size=1), max_size=5))
def test_history_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, entries: list[str]) -> None:
    path = tmp_path_factory.mktemp("history") / "history"
    path.touch()
    for entry in entries:
        append_history(path, entry)
    assert read_history(path) == entries


def test_a_long_or_damaged_history(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_text("".join(f"{i}\n" for i in range(2 * KEPT + 1)))
    assert read_history(path)[-1] == str(2 * KEPT)
    assert len(path.read_text().splitlines()) == KEPT
    path.write_bytes(b"ok\n\xff\xfe\n\ntrailing \\\nhalf")
    assert read_history(path)[0] == "ok"
    with path.open("wb") as file:
        file.truncate(17 << 20)
    assert read_history(path) == []
    append_history(tmp_path / "no" / "folder", "x")
    assert read_history(tmp_path / "none") == read_history(None) == []


def test_lines_that_go_on() -> None:
    assert [continues(t) for t in ("a\\", "a", "a\\\\", "a\\\\\\", "\\", "", '"""a\\')] == [
        True, False, False, True, True, False, False,
    ]  # fmt: skip
    lines = iter(["a\\", "b\\", "c", '"""x\\', 'y"""', "C:\\\\"])
    kept: list[str] = []
    reader = TerminalReader(kept.append, lambda shown: next(lines))
    assert [reader.read() for _ in range(3)] == ["a\nb\nc", "x\\\ny", "C:\\\\"]
    assert kept == ["a\nb\nc", '"""x\\\ny"""', "C:\\\\"]


def test_bytes_that_are_no_text_are_told() -> None:
    with pytest.raises(RequestError, match="not UTF-8"):
        TerminalReader(lambda text: None, lambda shown: "a\udcff").read()


def test_the_prompt_marks_what_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen:
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("TERM", "xterm")
    assert prompt(">>>", "green", Screen(), True) == "\x01\x1b[32m\x02>>>\x01\x1b[0m\x02 "  # type: ignore[arg-type]
    assert prompt(">>>", "green", Screen(), False) == "\x1b[32m>>>\x1b[0m "  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    assert prompt(">>>", "green", Screen(), True) == ">>> "  # type: ignore[arg-type]


def test_columns_of_wide_text() -> None:
    assert [cells(t) for t in ("ab", "你好", "é", "e\u0301")] == [2, 4, 1, 1]
    assert wrap("one two three", 8) == ["one two", "three"]
    assert wrap("你好 世界", 6) == ["你好", "世界"]
    assert wrap("unbreakable x", 5) == ["unbreakable", "x"]
    assert wrap("", 5) == [""]
