"""Stop strings: found however they are cut, never shown by halves, nothing else lost."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import RequestError
from penstock.text.stop import StopChecker

LETTERS = st.text("ab", max_size=20)


def run(checker: StopChecker, deltas: list[str]) -> tuple[str, str | None]:
    shown = ""
    for delta in deltas:
        result = checker.feed(delta)
        shown += result.text
        if result.stopped:
            return shown, result.matched
    return shown + checker.finish(), None


def cut(text: str, cuts: list[int]) -> list[str]:
    places = sorted({min(c, len(text)) for c in cuts} | {0, len(text)})
    return [text[a:b] for a, b in itertools.pairwise(places)]


def expected(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """The plain meaning: the shortest prefix that ends with a stop string, the longest such string."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            word = max(found, key=len)
            return text[: end if include else end - len(word)], word
    return text, None


@given(
    text=LETTERS, stops=st.lists(st.text("ab", min_size=1, max_size=5), max_size=4),
    cuts=st.lists(st.integers(0, 20), max_size=8), include=st.booleans(),
)  # fmt: skip
def test_any_cut_gives_the_same(text: str, stops: list[str], cuts: list[int], include: bool) -> None:
    assert run(StopChecker(stops, include), cut(text, cuts)) == expected(text, stops, include)


@given(text=LETTERS, stops=st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=4))
def test_holds_back_no_more_than_a_possible_stop(text: str, stops: list[str]) -> None:
    checker, shown, taken = StopChecker(stops), "", ""
    for char in text:
        result = checker.feed(char)
        if result.stopped:
            return
        shown, taken = shown + result.text, taken + char
        held = taken[len(shown) :]
        assert taken.startswith(shown)
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)


def test_split_over_deltas() -> None:
    checker = StopChecker(["\nUser:"])
    assert checker.feed("Hi\nUs").text == "Hi"
    result = checker.feed("er: more")
    assert (result.text, result.stopped, result.matched) == ("", True, "\nUser:")
    assert checker.finish() == ""
    assert checker.feed("later").text == ""


def test_false_alarm_is_released() -> None:
    checker = StopChecker(["</s>"])
    assert checker.feed("a</").text == "a"
    assert checker.feed("b>").text == "</b>"


def test_first_complete_wins_then_the_longest() -> None:
    assert run(StopChecker(["abcd", "bc"]), ["abcd"]) == ("a", "bc")
    assert run(StopChecker(["c", "abc"]), ["xabc"]) == ("x", "abc")


def test_at_the_first_token_and_included() -> None:
    assert run(StopChecker(["。"], include_stop_str_in_output=True), ["。好"]) == ("。", "。")
    assert run(StopChecker(["。"]), ["。好"]) == ("", "。")


def test_text_before_min_tokens_does_not_count() -> None:
    checker = StopChecker(["END"])
    assert checker.feed("E").text == ""
    assert checker.feed("ND END", allow_stop=False).text == "END END"
    assert not checker.feed("ND").stopped  # its beginning was shown before stops counted
    assert checker.feed(" END").matched == "END"


def test_no_stop_strings_hold_nothing() -> None:
    assert StopChecker().feed("abc").text == "abc"


@pytest.mark.parametrize("stop", [[""], ["a", ""]])
def test_empty_stop_string(stop: list[str]) -> None:
    with pytest.raises(RequestError, match="empty") as caught:
        StopChecker(stop)
    assert caught.value.param == "stop"


def test_long_repetitive_stop_string_is_linear() -> None:
    """100,000 characters against a stop string of 5,000: a product of the two would not end in time."""
    checker = StopChecker(["a" * 5000 + "b"])
    shown = "".join(checker.feed("a" * 10).text for _ in range(10_000))
    assert len(shown + checker.finish()) == 100_000
