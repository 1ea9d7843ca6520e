"""What one thing to learn is, and the reader of the plain text files under corpus/."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
CJK = re.compile(r"[\u3400-\u9fff]")


@dataclass(frozen=True)
class Item:
    """One thing to learn.

    `ask` are question forms that are trained, `held_out` forms are kept for evaluation only. `answers` are equally good
    answers, `raws` plain sentences learned as documents without a chat frame. `make`, where present, draws a fresh
    (question, answer) pair and replaces the fixed ones.
    """

    name: str
    group: str
    lang: str
    ask: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    raws: tuple[str, ...] = ()
    expect: tuple[str, ...] = ()
    make: Callable[[random.Random], tuple[str, str]] | None = field(default=None, compare=False)

    def draw(self, rng: random.Random) -> tuple[str, str]:
        """A (question, answer) pair before any noise is added."""
        if self.make is not None:
            return self.make(rng)
        return rng.choice(self.ask), rng.choice(self.answers)


def language(text: str) -> str:
    """`zh` where a text has a Chinese character, else `en`."""
    return "zh" if CJK.search(text) else "en"


def rows(name: str) -> Iterator[str]:
    """The lines of a corpus file without comments and empty lines."""
    for line in (CORPUS / name).read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.strip()


def paragraphs(name: str) -> list[str]:
    """The paragraphs of a corpus file."""
    return list(rows(name))


def read_facts(name: str, group: str, lang: str | None = None) -> list[Item]:
    """Reads `question | ~held-out question => answer [[expected]]` lines."""
    items = []
    for line in rows(name):
        left, right = line.split(" => ")
        answer, _, mark = right.partition("[[")
        answer = answer.strip()
        expect = (mark.rstrip("] ").strip(),) if mark else ()
        forms = [form.strip() for form in left.split(" | ")]
        ask = tuple(form for form in forms if not form.startswith("~"))
        held = tuple(form[1:] for form in forms if form.startswith("~"))
        where = lang or language(ask[0] + answer)
        items.append(Item(f"{group}:{ask[0]}", group, where, ask, (answer,), held, (answer,), expect))
    return items
