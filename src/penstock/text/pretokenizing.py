"""Cutting a text by a vocabulary's pattern, in windows, so that a long text holds up no other thread for long."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from penstock.errors import RequestError, missing
from penstock.text.facts import PATTERNS

T = TypeVar("T")
WINDOW = 1 << 14
# A piece depends on what follows it until its run of blanks or letters ends. The pieces at the end of a window that
# are not settled are therefore cut again with the next one; no pattern in use leaves more than two of them.
UNSETTLED = 4

# Characters of Unicode's general categories below U+0080, written for a set of Python's ``re``.
ASCII_CLASSES = {
    "L": "A-Za-z", "Lu": "A-Z", "Ll": "a-z", "Lt": "", "Lm": "", "Lo": "", "M": "", "N": "0-9",
    "P": re.escape("!\"#%&'()*,-./:;?@[\\]_{}"), "S": re.escape("$+<=>^`|~"),
}  # fmt: skip


class PatternSplitter:
    """The pieces of a text which ``pattern`` matches one after the other, those between matches included.

    Oniguruma, which ``tokenizers`` brings, does it, and gives up on a text with which it gets nowhere; text that is
    all ASCII goes through Python's ``re``, ten times faster, when the pattern is one of ours.
    """

    def __init__(self, pattern: str) -> None:
        try:
            from tokenizers import Regex, pre_tokenizers
        except ImportError as error:
            raise missing("tokenizers") from error
        self._split: Any = pre_tokenizers.Split(Regex(pattern), "isolated")
        self._ascii = ascii_pattern(pattern)

    def split(self, text: str) -> Iterator[str]:
        """Yield the pieces of ``text``; together they are the text. RequestError: the pattern gives up on it."""
        at, window = 0, WINDOW
        while at < len(text):
            whole = at + window >= len(text)
            pieces = self._pieces(text[at : at + window])
            if not whole and len(pieces) <= UNSETTLED:
                window *= 4
                continue
            settled = pieces if whole else pieces[:-UNSETTLED]
            yield from settled
            at += sum(map(len, settled))
            window = WINDOW

    def _pieces(self, text: str) -> list[str]:
        if self._ascii is not None and text.isascii():
            pieces: list[str] = self._ascii.findall(text)
            if sum(map(len, pieces)) == len(text):
                return pieces
        return [piece for piece, _ in guard(self._split.pre_tokenize_str, text)]


def ascii_pattern(pattern: str) -> re.Pattern[str] | None:
    """``pattern`` for Python's ``re`` and ASCII texts, or ``None`` for one that is not among the facts."""
    if pattern not in PATTERNS:
        return None
    in_set = re.sub(r"\[(?:\\.|[^\]\\])*\]", lambda found: _classes(found.group(), "{}"), pattern)
    return re.compile(_classes(in_set, "[{}]"), re.ASCII)


def _classes(text: str, form: str) -> str:
    return re.sub(r"\\p\{(\w+)\}", lambda found: form.format(ASCII_CLASSES[found.group(1)]), text)


def guard(run: Callable[[str], T], text: str) -> T:
    """``run(text)``, where the library's panics (no ``Exception`` in Python) refuse the text."""
    try:
        return run(text)
    except (KeyboardInterrupt, SystemExit, MemoryError, GeneratorExit):
        raise
    except BaseException as error:
        reason = " ".join(str(error).split())[:120]
        raise RequestError(f"the tokenizer gave up on a text of {len(text)} characters ({reason})") from error
