from __future__ import annotations

import sys
import threading

import pytest

from penstock.aside import Aside


def test_made_while_the_caller_goes_on() -> None:
    go = threading.Event()
    with Aside(lambda: go.wait(60)) as aside:
        aside.check()  # nothing to say yet
        go.set()
        assert aside.result()


def test_turns_are_short_within_only() -> None:
    before = sys.getswitchinterval()
    with Aside(sys.getswitchinterval) as aside:
        assert sys.getswitchinterval() < before
        aside.result()
    assert sys.getswitchinterval() == before


def test_contexts_that_overlap_give_back_the_usual_turn() -> None:
    before = sys.getswitchinterval()
    first, second = Aside(lambda: 1), Aside(lambda: 2)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert sys.getswitchinterval() < before
    second.__exit__(None, None, None)
    assert sys.getswitchinterval() == before


def test_errors_come_as_soon_as_asked() -> None:
    def fail() -> None:
        raise ValueError("no tokenizer")

    with Aside(fail) as aside:
        with pytest.raises(ValueError, match="no tokenizer"):
            aside.result()
        with pytest.raises(ValueError, match="no tokenizer"):
            aside.check()
