"""The little pattern language of `models.rules`: from canonical names back to the names a file may use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product

TOKEN = re.compile(r"\{(\w+)(?::([^{}]*))?\}|\[([^\[\]]*)\]|\*|[^{}\[\]*]+")
NUMBER = r"0|[1-9]\d{0,6}"


@dataclass(frozen=True)
class Pattern:
    """One pattern. ``words`` says what a variable of another pattern may be; without it, it is a number."""

    text: str
    words: tuple[tuple[str, str], ...] = ()

    @cached_property
    def variables(self) -> dict[str, str]:
        """Each variable and the regular expression of what it may be."""
        known = dict(self.words)
        found: dict[str, str] = {}
        for name, words in re.findall(r"\{(\w+)(?::([^{}]*))?\}", self.text):
            found[name] = "|".join(map(re.escape, words.split("|"))) if words else known.get(name, NUMBER)
        return found

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """Matches whole names, with one group per variable."""
        return re.compile(self._regex(self.text, set()))

    def _regex(self, text: str, seen: set[str]) -> str:
        out = []
        for match in _tokens(text):
            name, _, optional = match.groups()
            if name and name in seen:
                out.append(f"(?P={name})")
            elif name:
                seen.add(name)
                out.append(f"(?P<{name}>{self.variables[name]})")
            elif optional is not None:
                out.append(f"(?:{self._regex(optional, seen)})?")
            else:
                out.append(".*" if match[0] == "*" else re.escape(match[0]))
        return "".join(out)

    def match(self, name: str) -> dict[str, str] | None:
        """The variables' values when ``name`` fits."""
        found = self.regex.fullmatch(name)
        return None if found is None else found.groupdict()

    def names(self, values: Mapping[str, str]) -> list[str]:
        """The names that the pattern means for ``values``, those with the optional pieces first."""
        pieces: list[tuple[str, ...]] = []
        for match in _tokens(self.text):
            name, _, optional = match.groups()
            if optional is not None:
                pieces.append((fill(optional, values), ""))
            else:
                pieces.append((values[name] if name else match[0],))
        return ["".join(choice) for choice in product(*pieces)]


def fill(text: str, values: Mapping[str, str]) -> str:
    """``text`` with its variables put in."""
    return re.sub(r"\{(\w+)(?::[^{}]*)?\}", lambda match: values[match[1]], text)


def _tokens(text: str) -> list[re.Match[str]]:
    found = list(TOKEN.finditer(text))
    if sum(len(match[0]) for match in found) != len(text):
        raise ValueError(f"pattern {text!r} has an unmatched bracket")
    return found


@lru_cache(maxsize=4096)
def pattern(text: str, words_of: str = "") -> Pattern:
    """The pattern ``text``; its variables may be what the pattern ``words_of`` says they are."""
    words = Pattern(words_of).variables if words_of else {}
    return Pattern(text, tuple(words.items()))
