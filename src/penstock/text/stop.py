"""Stop strings over a stream of text: nothing of a stop string leaks, and nothing else is held back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.errors import RequestError


@dataclass(frozen=True)
class StopResult:
    """``text``: what may be shown now. ``stopped``: a stop string was completed; ``matched`` is that string."""

    text: str
    stopped: bool = False
    matched: str | None = None


class _Needle:
    """One stop string as a Knuth–Morris–Pratt automaton: ``state`` characters of it end the text so far."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.state = 0
        self._fail = [0] * len(word)
        for i in range(1, len(word)):
            k = self._fail[i - 1]
            while k and word[k] != word[i]:
                k = self._fail[k - 1]
            self._fail[i] = k + (word[k] == word[i])

    def step(self, char: str) -> bool:
        """Take one character; whether the stop string is complete."""
        word, state = self.word, self.state
        while state and word[state] != char:
            state = self._fail[state - 1]
        self.state = state + (word[state] == char)
        return self.state == len(word)


class StopChecker:
    """Looks for stop strings in text deltas, however they are cut.

    The stop string that is complete first wins; of those complete at the same character, the longest. The result
    depends only on the text, not on how it was cut into deltas. O(stop strings) per character, amortised.
    """

    def __init__(self, stop: Sequence[str] = (), include_stop_str_in_output: bool = False) -> None:
        if any(not isinstance(word, str) or not word for word in stop):
            raise RequestError("a stop string is empty; leave it out", param="stop")
        self._needles = [_Needle(word) for word in dict.fromkeys(stop)]
        self._include = include_stop_str_in_output
        self._held = ""
        self._done = False

    def feed(self, text: str, allow_stop: bool = True) -> StopResult:
        """Take the next delta. With ``allow_stop=False`` (fewer than ``min_tokens`` so far) nothing in it counts."""
        if self._done:
            return StopResult("", stopped=True)
        if not self._needles:
            return StopResult(text)
        if not allow_stop:
            text, self._held = self._held + text, ""
            for needle in self._needles:
                needle.state = 0
            return StopResult(text)
        for position, char in enumerate(text):
            complete = [needle.word for needle in self._needles if needle.step(char)]
            if complete:
                return self._stop(self._held + text[: position + 1], max(complete, key=len))
        whole = self._held + text
        keep = max(needle.state for needle in self._needles)
        self._held = whole[len(whole) - keep :]
        return StopResult(whole[: len(whole) - keep])

    def _stop(self, whole: str, word: str) -> StopResult:
        self._done = True
        self._held = ""
        return StopResult(whole if self._include else whole[: len(whole) - len(word)], stopped=True, matched=word)

    def finish(self) -> str:
        """The text still held back, when generation ended for another reason."""
        held, self._held = self._held, ""
        return held
