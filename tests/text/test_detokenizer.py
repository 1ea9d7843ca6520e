"""Incremental decoding: the stream is the text, cut at whole characters."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.text.bytelevel import decode_utf8
from penstock.text.detokenizer import Detokenizer
from penstock.text.tokenizer import Tokenizer
from tests.text.vocabularies import BYTE_LEVEL, REAL, SENTENCEPIECE, real

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
HARD = [
    "👨‍👩‍👧‍👦🦙",
    "नमस्ते",
    "\u200f עברית",
    "a\x00b\ufeff",
    "  two  spaces ",
    "ﬁ½①",
    "e\u0301",
    "\U0010fffd",
    "\r\n\t",
]


def stream(tokenizer: Tokenizer, ids: list[int], **options: bool) -> list[str]:
    detokenizer = Detokenizer(tokenizer, **options)
    return [*(detokenizer.push([i]) for i in ids), detokenizer.finish()]


@pytest.mark.parametrize("name", REAL)
@given(text=TEXT | st.sampled_from(HARD))
def test_stream_is_the_decoded_text(name: str, text: str) -> None:
    tokenizer = real(name)
    ids = tokenizer.encode(text)
    parts = stream(tokenizer, ids)
    assert "".join(parts) == tokenizer.decode(ids)
    if "\ufffd" not in text:
        assert not any("\ufffd" in part for part in parts)


@pytest.mark.parametrize("name", REAL)
@given(seed=st.integers(0, 10**9), skip=st.booleans(), cut=st.integers(0, 7))
def test_stream_of_any_ids(name: str, seed: int, skip: bool, cut: int) -> None:
    """Random ids hold invalid UTF-8; the text still does not depend on how they come."""
    tokenizer = real(name)
    numbers = random.Random(seed)
    ids = [numbers.randrange(tokenizer.vocab_size + 3) for _ in range(12)]
    whole = tokenizer.decode(ids, skip_special_tokens=skip)
    assert "".join(stream(tokenizer, ids, skip_special_tokens=skip)) == whole
    detokenizer = Detokenizer(tokenizer, skip)
    assert detokenizer.push(ids[:cut]) + detokenizer.push(ids[cut:]) + detokenizer.finish() == whole


@pytest.mark.parametrize("name", BYTE_LEVEL)
@given(text=TEXT)
def test_byte_level_round_trip(name: str, text: str) -> None:
    import unicodedata

    tokenizer = real(name)
    wanted = unicodedata.normalize("NFC", text) if name.startswith("qwen") else text
    assert tokenizer.decode(tokenizer.encode(text, parse_special=False)) == wanted


@pytest.mark.parametrize("name", [n for n in SENTENCEPIECE if n != "baichuan"])
@given(text=TEXT.filter(lambda text: "▁" not in text))
def test_byte_fallback_round_trip(name: str, text: str) -> None:
    tokenizer = real(name)
    assert tokenizer.decode(tokenizer.encode(text, parse_special=False)) == text


def test_a_character_waits_for_its_last_byte() -> None:
    tokenizer = real("llama2")
    ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in "🦙".encode()]
    assert stream(tokenizer, [i for i in ids if i is not None]) == ["", "", "", "🦙", ""]


def test_incomplete_end_is_told_once() -> None:
    tokenizer = real("llama2")
    ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in "🦙".encode()[:2]]
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.push([i for i in ids if i is not None]) == ""
    assert detokenizer.finish() == "\ufffd\ufffd"  # as the SentencePiece library: one for each byte
    assert detokenizer.finish() == ""


def test_leading_space_belongs_to_a_continued_text() -> None:
    tokenizer = real("llama2")
    ids = tokenizer.encode("Paris", add_special_tokens=False)
    assert Detokenizer(tokenizer).push(ids) == "Paris"
    assert Detokenizer(tokenizer, continued=True).push(ids) == " Paris"
    assert tokenizer.decode(tokenizer.encode(" x")) == " x"


def test_special_tokens_are_shown_on_demand() -> None:
    tokenizer = real("qwen2")
    ids = tokenizer.encode("<|im_start|>hi<|im_end|>")
    assert tokenizer.decode(ids) == "hi"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<|im_start|>hi<|im_end|>"


@given(data=st.binary(max_size=24), cuts=st.lists(st.integers(0, 24), max_size=6), each=st.booleans())
def test_utf8_in_pieces(data: bytes, cuts: list[int], each: bool) -> None:
    whole, rest = decode_utf8(data, final=True, replace_each=each)
    assert rest == b""
    if not each:
        assert whole == data.decode("utf-8", "replace")
    text, rest, last = "", b"", 0
    for cut in [*sorted(cuts), len(data)]:
        part, rest = decode_utf8(rest + data[last:cut], final=False, replace_each=each)
        text, last = text + part, max(last, cut)
        assert len(rest) <= 3
    text += decode_utf8(rest, final=True, replace_each=each)[0]
    assert text == whole


@pytest.mark.parametrize("name", ["gpt2", "llama3", "qwen2", "stories"])
def test_same_text_as_the_tokenizers_library(name: str) -> None:
    library = pytest.importorskip("tokenizers")
    from tests.helpers import shared

    other = library.Tokenizer.from_file(str(shared("assets", *REAL[name][0].split("/"), "tokenizer.json")))
    tokenizer = real(name)
    numbers = random.Random(0)
    for _ in range(300):
        ids = [numbers.randrange(tokenizer.vocab_size) for _ in range(6)]
        if name == "stories":  # the library gives up on a whole run of bytes, see decode_utf8
            ids = [i for i in ids if len(tokenizer.token_bytes(i)) > 1]
        for skip in (True, False):
            assert tokenizer.decode(ids, skip_special_tokens=skip) == other.decode(ids, skip_special_tokens=skip)
