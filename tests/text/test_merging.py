"""Merging by rank and cutting by pattern, against the tiktoken library."""

from __future__ import annotations

import time
import unicodedata
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import RequestError
from penstock.text import pretokenizing
from penstock.text.facts import GPT2_PATTERN, PATTERNS, QWEN_PATTERN, TEKKEN_PATTERN
from penstock.text.merging import merge
from penstock.text.pretokenizing import PatternSplitter
from tests.helpers import shared
from tests.text.test_vectors import CORPUS, vectors
from tests.text.vocabularies import real

# Text that is hard to cut: blanks of all kinds, contractions, letters whose case folds oddly, marks, digits, capitals.
ODD = "aZ '’sſreLL09²½٣一ǅʰॐ\u0301\u200d🦙😶‍🌫️ \u00a0\u3000\u0085\u2028\x1c\t\r\n-_./<|>İßK𝟘𐍈"
texts = st.one_of(st.text(st.sampled_from(ODD), max_size=60), st.text(max_size=60))
ranks = st.dictionaries(
    st.binary(min_size=2, max_size=5).map(lambda b: bytes(x % 3 + 97 for x in b)), st.integers(0, 99)
)


def plainly(parts: list[bytes], table: dict[bytes, int]) -> list[bytes]:
    """The definition: join the leftmost pair of the lowest rank, again and again."""
    while pairs := [(table[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in table]:
        i = min(pairs)[1]
        parts = [*parts[:i], parts[i] + parts[i + 1], *parts[i + 2 :]]
    return parts


@given(st.text(st.sampled_from("abc"), max_size=40), ranks)
def test_merging_does_what_its_definition_says(text: str, table: dict[bytes, int]) -> None:
    parts = [bytes([value]) for value in text.encode()]
    assert merge(parts, table) == plainly(parts, table)
    assert merge(list(text), {k.decode(): v for k, v in table.items()}) == [p.decode() for p in plainly(parts, table)]


def test_a_long_word_costs_little_more_than_its_parts() -> None:
    """Quadratic merging would take sixteen times as long for four times the text; there is room for noise."""
    tokenizer = real("qwen")
    spent = []
    for count in (50_000, 200_000):
        word = "abcdefgh" * (count // 8)
        begin = time.process_time()
        assert tokenizer.decode(tokenizer.encode(word)) == word
        spent.append(time.process_time() - begin)
    assert spent[1] < 10 * spent[0]


@cache
def _library() -> Any:
    import tiktoken

    table = real("qwen")._backend._ranks  # type: ignore[attr-defined]
    return tiktoken.Encoding("qwen", pat_str=QWEN_PATTERN, mergeable_ranks=table, special_tokens={})


class TestAgainstTiktoken:
    def check(self, text: str) -> None:
        pytest.importorskip("tiktoken")
        expected = _library().encode_ordinary(unicodedata.normalize("NFC", text))
        assert real("qwen").encode(text, parse_special=False) == expected

    @pytest.mark.parametrize("file", CORPUS)
    def test_texts(self, file: str) -> None:
        self.check(shared("assets", "text", file).read_bytes().decode()[:150_000])

    @pytest.mark.parametrize("name", ["qwen2", "gpt-2", "llama-bpe", "llama-spm"])
    def test_vectors(self, name: str) -> None:
        for text, _ in vectors(name):
            self.check(text)

    @given(texts)
    def test_any_text(self, text: str) -> None:
        self.check(text)

    @given(st.text(st.sampled_from("ab'\n\t .") | st.characters(codec="utf-8"), max_size=12), st.integers(1, 300))
    def test_repeated(self, text: str, times: int) -> None:
        self.check(text * times)


class TestPatterns:
    @pytest.mark.parametrize("pattern", PATTERNS)
    @given(text=st.text(st.characters(max_codepoint=127), max_size=60))
    def test_ascii_is_cut_as_by_the_general_engine(self, pattern: str, text: str) -> None:
        splitter = PatternSplitter(pattern)
        assert splitter._ascii is not None
        expected = [piece for piece, _ in splitter._split.pre_tokenize_str(text)]
        assert splitter._pieces(text) == expected

    @pytest.mark.parametrize("pattern", PATTERNS)
    @given(text=st.lists(texts, max_size=6).map("".join), window=st.integers(1, 24))
    def test_windows_change_nothing(self, pattern: str, text: str, window: int) -> None:
        splitter = PatternSplitter(pattern)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pretokenizing, "WINDOW", window)
            pieces = list(splitter.split(text))
        assert pieces == [piece for piece, _ in splitter._split.pre_tokenize_str(text)]

    def test_characters_are_classed_as_the_library_does(self) -> None:
        """Single letters and digits of each script, by whether they stay with a letter or a digit before them."""
        tiktoken = pytest.importorskip("tiktoken")
        table = {bytes([value]): value for value in range(256)}
        for first in b"a1!":
            table |= {bytes([first, value]): 256 + first * 256 + value for value in range(256)}
        library = tiktoken.Encoding("lead", pat_str=GPT2_PATTERN, mergeable_ranks=table, special_tokens={})
        splitter = PatternSplitter(GPT2_PATTERN)
        for code in [*range(1, 0x3000, 3), *range(0x3000, 0xD800, 211), *range(0xE000, 0x20000, 97)]:
            for lead in "a1!":
                together = library.encode_ordinary(lead + chr(code))[0] > 255
                assert (len(list(splitter.split(lead + chr(code)))) == 1) == together, (lead, hex(code))

    def test_a_pattern_from_elsewhere_stays_with_the_engine_that_has_limits(self) -> None:
        assert PatternSplitter(r"(a|a)+b|.")._ascii is None

    def test_capitals_begin_a_word_of_tekken(self) -> None:
        pieces = list(PatternSplitter(TEKKEN_PATTERN).split("HelloWorld's 12 ÉtéABc"))
        assert "|".join(pieces) == "Hello|World|'s| |1|2| Été|ABc"

    def test_a_text_which_the_engine_gives_up_on_is_refused(self) -> None:
        splitter = PatternSplitter(r"(?:a|aa)+$|[^a]")
        with pytest.raises(RequestError, match="gave up"):
            list(splitter.split("a" * 80 + "b"))
