"""Vocabularies of GGUF files: llama.cpp's vectors, the original libraries, and damage."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.checkpoints.gguf import GgufFile
from penstock.errors import CheckpointError, UnsupportedError
from penstock.text.bytelevel import char_to_byte
from penstock.text.facts import LLAMA3_PATTERN, QWEN_PATTERN
from penstock.text.gguf_patterns import PRE_TOKENIZERS
from penstock.text.special import stop_ids
from penstock.text.tokenizer import Tokenizer
from tests.helpers import shared
from tests.text.test_merging import texts
from tests.text.test_vectors import CORPUS, lines_of, vectors
from tests.text.vocabularies import real

GGML = "tokenizer.ggml."


@cache
def metadata_of_json(*folder: str, pre: str) -> dict[str, Any]:
    """What a converter would write for a ``tokenizer.json``: the lists of its BPE, and the kinds of its tokens."""
    spec = json.loads(shared("assets", "tokenizers", *folder, "tokenizer.json").read_text())
    tokens = {token_id: piece for piece, token_id in spec["model"]["vocab"].items()}
    added = {token["id"]: token for token in spec["added_tokens"]}
    tokens |= {token_id: token["content"] for token_id, token in added.items()}
    kinds = [(3 if added[i]["special"] else 4) if i in added else 1 for i in range(len(tokens))]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in spec["model"]["merges"]]
    return {
        GGML + "model": "gpt2", GGML + "pre": pre, GGML + "tokens": [tokens[i] for i in range(len(tokens))],
        GGML + "token_type": kinds, GGML + "merges": merges,
    }  # fmt: skip


@cache
def tokenizer_of(name: str) -> Tokenizer:
    if name == "llama-bpe":
        named = {GGML + "bos_token_id": 128000, GGML + "eos_token_id": 128001, GGML + "eot_token_id": 128009}
        return Tokenizer.from_gguf(metadata_of_json("llama3", "hf", pre="llama-bpe") | named)
    if name == "qwen2":
        return Tokenizer.from_gguf(metadata_of_json("qwen", "qwen2-hf", pre="qwen2") | {GGML + "eos_token_id": 151645})
    return Tokenizer.from_gguf(GgufFile(shared("assets", "ggml-vocab", f"ggml-vocab-{name}.gguf")).metadata)


@pytest.mark.parametrize("name", ["gpt-2", "llama-spm", "phi-3", "llama-bpe", "qwen2"])
def test_vectors_of_llama_cpp(name: str) -> None:
    tokenizer = tokenizer_of(name)
    for text, ids in vectors(name):
        assert tokenizer.encode(text, add_special_tokens=False, parse_special=False) == ids, text
        assert tokenizer.decode(ids) == text


def test_lists_read_by_another_reader_are_the_same_tokenizer() -> None:
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(shared("assets", "ggml-vocab", "ggml-vocab-llama-spm.gguf"))
    other = Tokenizer.from_gguf({key: field.contents() for key, field in reader.fields.items()})
    mine = tokenizer_of("llama-spm")
    text = "".join(lines_of(CORPUS[0], 40))
    assert mine.encode(text) == other.encode(text)
    assert mine.special_tokens == other.special_tokens


SAME = [
    ("gpt-2", "gpt2"),
    ("llama-spm", "llama2"),
    ("baichuan", "baichuan"),
    ("llama-bpe", "llama3"),
    ("qwen2", "qwen2"),
]


@pytest.mark.parametrize(("name", "original"), SAME)
def test_same_as_the_original_files(name: str, original: str) -> None:
    mine, other = tokenizer_of(name), real(original)
    for file in CORPUS:
        for line in lines_of(file, 80):
            ids = other.encode(line, add_special_tokens=False)
            if name == "baichuan":  # the original folds compatibility characters first, which GGUF cannot say
                line = other.decode(ids)
            assert mine.encode(line, add_special_tokens=False) == ids
    assert [mine.token_bytes(i) for i in range(mine.vocab_size)] == [
        other.token_bytes(i) for i in range(mine.vocab_size)
    ]
    words = list(set(mine.control_texts) & set(other.control_texts))
    assert words
    for word in words:
        assert mine.encode(f"a {word} b") == other.encode(f"a {word} b")
        assert mine.control_texts[word] == other.control_texts[word]


@given(text=texts)
@pytest.mark.parametrize(("name", "original"), SAME[:2])
def test_any_text_as_the_original(name: str, original: str, text: str) -> None:
    mine, other = tokenizer_of(name), real(original)
    assert mine.encode(text, parse_special=False) == other.encode(text, parse_special=False)
    assert mine.decode(mine.encode(text, parse_special=False)) == text


def pieces(*more: tuple[str, float, int], bytes_too: bool = True) -> dict[str, Any]:
    """A small SentencePiece vocabulary: ``<unk> <s> </s>``, the bytes, and ``more``."""
    rows: list[tuple[str, float, int]] = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    rows += [(f"<0x{value:02X}>", 0.0, 6) for value in range(256)] if bytes_too else []
    rows += more
    lists = {"tokens": [r[0] for r in rows], "scores": [r[1] for r in rows], "token_type": [r[2] for r in rows]}
    return {GGML + "model": "llama", **{GGML + key: value for key, value in lists.items()}}


def read(tokenizer: Tokenizer, text: str, **how: Any) -> list[str | None]:
    return [tokenizer.token(i) for i in tokenizer.encode(text, **how)]


LETTERS = [("▁", -9.0, 1), ("a", -9.0, 1), ("b", -9.0, 1), ("ab", -2.0, 1), ("ba", -1.0, 1), ("▁a", -3.0, 1)]


class TestScores:
    def test_the_best_score_is_joined_first(self) -> None:
        tokenizer = Tokenizer.from_gguf(pieces(*LETTERS))
        assert read(tokenizer, "aba") == ["<s>", "▁a", "ba"]
        assert read(tokenizer, "ab b") == ["<s>", "▁", "ab", "▁", "b"]

    def test_what_has_no_piece_becomes_bytes_or_unknown(self) -> None:
        assert read(Tokenizer.from_gguf(pieces(*LETTERS)), "é", add_special_tokens=False) == ["▁", "<0xC3>", "<0xA9>"]
        tokenizer = Tokenizer.from_gguf(pieces(*LETTERS, bytes_too=False))
        assert read(tokenizer, "éüa", add_special_tokens=False) == ["▁", "<unk>", "a"]

    def test_a_piece_over_two_words_is_found(self) -> None:
        tokenizer = Tokenizer.from_gguf(pieces(*LETTERS, ("a▁", -0.5, 1), ("▁a▁", -0.4, 1)))
        assert read(tokenizer, "a b", add_special_tokens=False) == ["▁a▁", "b"]

    def test_no_space_is_put_before_when_the_file_says_so(self) -> None:
        tokenizer = Tokenizer.from_gguf(pieces(*LETTERS) | {GGML + "add_space_prefix": False})
        assert read(tokenizer, "ab", add_special_tokens=False) == ["ab"]
        assert tokenizer.decode(tokenizer.encode(" ab")) == " ab"

    def test_blanks_are_collapsed_when_the_file_says_so(self) -> None:
        tokenizer = Tokenizer.from_gguf(pieces(*LETTERS) | {GGML + "remove_extra_whitespaces": True})
        assert tokenizer.decode(tokenizer.encode("  a   b ")) == "a b"

    def test_user_defined_pieces_are_whole(self) -> None:
        tokenizer = Tokenizer.from_gguf(pieces(*LETTERS, ("bab", 0.0, 4)))
        assert "bab" in read(tokenizer, "abab", parse_special=False)

    def test_what_looks_like_control_is_control(self) -> None:
        tokenizer = Tokenizer.from_gguf(pieces(*LETTERS, ("<|im_end|>", 0.0, 4)))
        end = tokenizer.token_to_id("<|im_end|>")
        assert end in tokenizer.special_ids
        assert end not in tokenizer.encode("<|im_end|>", parse_special=False)
        assert end in stop_ids(tokenizer)

    def test_bytes_written_out_are_text(self) -> None:
        tokenizer = Tokenizer.from_gguf(pieces(*LETTERS))
        assert tokenizer.decode(tokenizer.encode("<0x0A>")) == "<0x0A>"

    def test_a_megabyte_without_a_blank(self) -> None:
        tokenizer = tokenizer_of("llama-spm")
        assert tokenizer.decode(tokenizer.encode("ab" * 100_000)) == "ab" * 100_000

    def test_control_tokens_of_phi3_take_the_blanks_after_them(self) -> None:
        tokenizer = tokenizer_of("phi-3")
        ids = tokenizer.encode("<|user|>\nHi<|end|>\n<|assistant|>\n", add_special_tokens=False)
        assert [tokenizer.token(i) for i in ids] == ["<|user|>", "▁Hi", "<|end|>", "<|assistant|>"]


class TestMetadata:
    def test_ids_flags_and_templates(self) -> None:
        more = {
            GGML + "eot_token_id": 5, GGML + "padding_token_id": 4, GGML + "add_eos_token": True,
            GGML + "add_bos_token": False, "tokenizer.chat_template": "A", "tokenizer.chat_template.tool_use": "B",
            "tokenizer.chat_templates": ["tool_use"], "general.name": "tiny",
        }  # fmt: skip
        tokenizer = Tokenizer.from_gguf(pieces(*LETTERS, bytes_too=False) | more)
        assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id) == (1, 2, 4, 0)
        assert tokenizer.eos_ids == {2, 5}
        assert (tokenizer.prefix_ids, tokenizer.suffix_ids) == ((), (2,))
        assert dict(tokenizer.chat_templates) == {"default": "A", "tool_use": "B"}
        assert tokenizer.chat_template == "A"

    def test_of_real_files(self) -> None:
        phi = tokenizer_of("phi-3")
        assert (phi.bos_id, phi.eos_id, phi.pad_id, phi.prefix_ids) == (1, 32000, 32000, (1,))
        assert str(phi.chat_template).startswith("{{ bos_token }}")
        assert not phi.special_ids & set(phi.encode("</s><|end|>", add_special_tokens=False, parse_special=False))
        llama = tokenizer_of("llama-bpe")
        assert llama.prefix_ids == (128000,)
        assert {128001, 128009} <= llama.eos_ids
        assert tokenizer_of("qwen2").prefix_ids == ()

    def test_arrays_and_bytes_are_lists_too(self) -> None:
        import numpy as np

        metadata = pieces(*LETTERS)
        expected = Tokenizer.from_gguf(metadata).encode("abab <s>")
        metadata[GGML + "scores"] = np.array(metadata[GGML + "scores"], np.float32)
        metadata[GGML + "token_type"] = np.array(metadata[GGML + "token_type"], np.int32)
        metadata[GGML + "tokens"] = [piece.encode() for piece in metadata[GGML + "tokens"]]
        metadata[GGML + "bos_token_id"] = np.uint32(1)
        assert Tokenizer.from_gguf(metadata).encode("abab <s>") == expected

    def test_bytes_that_are_no_text(self) -> None:
        broken = b"\xff\xfe"
        for piece in (broken, broken.decode("utf-8", "surrogateescape")):
            metadata = pieces(*LETTERS) | {"tokenizer.chat_template": "a\udcff"}
            metadata[GGML + "tokens"] = [*metadata[GGML + "tokens"][:-1], piece]
            tokenizer = Tokenizer.from_gguf(metadata)
            assert set(tokenizer.token_text(tokenizer.vocab_size - 1)) == {"\ufffd"}
            str(tokenizer.chat_template).encode()
        assert Tokenizer.from_gguf(byte_level("gpt-2", control=["\udcff"])).encode("ab") == [256]

    @pytest.mark.parametrize("none", [-1, 0xFFFFFFFF])
    def test_an_id_may_be_none(self, none: int) -> None:
        assert Tokenizer.from_gguf(pieces(*LETTERS) | {GGML + "padding_token_id": none}).pad_id is None

    def test_chatglm_prefixes(self) -> None:
        tokenizer = Tokenizer.from_gguf(byte_level("chatglm-bpe", control=["<|endoftext|>", "[gMASK]", "<sop>"]))
        assert read(tokenizer, "a") == ["[gMASK]", "<sop>", "a"]
        assert tokenizer.encode_prompt("[gMASK]<sop>a") == tokenizer.encode("a")
        older = pieces(*LETTERS, ("[gMASK]", 0.0, 3), ("sop", 0.0, 3)) | {GGML + "pre": "chatglm-spm"}
        tokenizer = Tokenizer.from_gguf(older)
        assert read(tokenizer, "a sop")[:3] == ["[gMASK]", "sop", "▁a"]
        assert read(tokenizer, "a sop").count("sop") == 1


def byte_level(pre: str | None, control: list[str] | None = None, **more: Any) -> dict[str, Any]:
    """A byte-level vocabulary: the bytes, ``ab``, and control tokens."""
    tokens = [*char_to_byte(), "ab", *(control or [])]
    kinds = [1] * 257 + [3] * len(control or [])
    lists: dict[str, Any] = {"model": "gpt2", "tokens": tokens, "token_type": kinds, "merges": ["a b"]}
    lists |= more if pre is None else {"pre": pre, **more}
    return {GGML + key: value for key, value in lists.items()}


CUTS = [
    ("gpt-2", "I'll pay 1234 $", "I|'ll| pay| 1234| $"),
    ("default", "pay 1234$", "pay| |123|4|$"),
    ("falcon", "it's 1234`x", "it|'|s| |123|4|`|x"),
    ("starcoder", "x 12", "x| |1|2"),
    ("llama-bpe", "I'LL pay 1234\n\nnow", "I|'LL| pay| |123|4|\n\n|now"),
    ("qwen2", "x12", "x|1|2"),
    ("tekken", "helloWorld 12", "hello|World| |1|2"),
    ("gpt-4o", "helloWorld's 1234", "hello|World's| |123|4"),
    ("bloom", "a, b。c", "a|,| b|。|c"),
    ("viking", "a12, b", "a|1|2|,| b"),
    ("deepseek-llm", "Hi 你好ab, ñ 12\n", "Hi| |你好|ab|,| ñ| |12|\n"),
    ("deepseek-coder", "f(x)=你12\n", "f|(|x|)|=|你|1|2|\n"),
    ("deepseek-v3", "1234 .abc 你好カナ!", "123|4| .|abc| |你好カナ|!"),
    ("bailingmoe", "a12\n\n b", "a|1|2|\n\n| b"),
    ("chatglm-bpe", "x1234", "x|123|4"),
]


@pytest.mark.parametrize(("pre", "text", "expected"), CUTS)
def test_how_a_text_is_cut(pre: str, text: str, expected: str) -> None:
    backend: Any = Tokenizer.from_gguf(byte_level(pre))._backend
    found = backend._tokenizer.pre_tokenizer.pre_tokenize_str(text)
    assert [text[begin:end] for _, (begin, end) in found] == expected.split("|")


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
@given(text=texts)
def test_every_pre_tokenizer_keeps_the_text(pre: str, text: str) -> None:
    if (tokenizer := BUILT.get(pre)) is None:
        tokenizer = BUILT[pre] = Tokenizer.from_gguf(byte_level(pre))
    decoded = tokenizer.decode(tokenizer.encode(text))
    if PRE_TOKENIZERS[pre].normalization is None:
        assert decoded == text


BUILT: dict[str, Tokenizer] = {}


def test_families_that_share_a_pattern_do() -> None:
    assert PRE_TOKENIZERS["qwen2"].patterns == (QWEN_PATTERN,)
    assert PRE_TOKENIZERS["glm4"].patterns == PRE_TOKENIZERS["llama-bpe"].patterns == (LLAMA3_PATTERN,)


class TestDamage:
    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("tokens", []), ("tokens", "abc"), ("tokens", [1, 2]), ("scores", [0.0]), ("scores", ["x"] * 265),
            ("scores", [float("nan")] * 265), ("token_type", [1]), ("token_type", None), ("bos_token_id", 100_000),
            ("eos_token_id", "one"), ("add_bos_token", "yes"), ("pre", 3), ("token_type", [6] * 265),
        ],
    )  # fmt: skip
    def test_lists_and_ids(self, key: str, value: Any) -> None:
        with pytest.raises(CheckpointError, match=key):
            Tokenizer.from_gguf(pieces(*LETTERS) | {GGML + key: value}, source="tiny.gguf")

    @pytest.mark.parametrize("merges", [["ab"], ["a "], ["x yz"], [7], ["a c"]])
    def test_merges(self, merges: list[Any]) -> None:
        with pytest.raises(CheckpointError, match=r"merges|tiny\.gguf"):
            Tokenizer.from_gguf(byte_level("gpt-2", merges=merges), source="tiny.gguf")

    def test_a_template_that_is_none(self) -> None:
        with pytest.raises(CheckpointError, match="chat_template"):
            Tokenizer.from_gguf(pieces(*LETTERS) | {"tokenizer.chat_template": 3})

    def test_unknown_names(self) -> None:
        with pytest.raises(UnsupportedError, match=r"'qwn2'.*did you mean 'qwen2'"):
            Tokenizer.from_gguf(byte_level("qwn2"))
        with pytest.raises(UnsupportedError, match="'t5'"):
            Tokenizer.from_gguf({GGML + "model": "t5"})
        for nothing in ({}, {GGML + "model": "none"}):
            with pytest.raises(CheckpointError, match="skip_tokenizer_init"):
                Tokenizer.from_gguf(nothing)

    def test_an_old_file_without_a_pre_tokenizer_is_told(self, caplog: pytest.LogCaptureFixture) -> None:
        assert Tokenizer.from_gguf(byte_level(None)).encode("ab") == [256]
        assert "pre" in caplog.text

    def test_pieces_that_repeat_keep_their_numbers(self) -> None:
        metadata = byte_level("gpt-2", control=["", "ab", "<|end|>"])
        tokenizer = Tokenizer.from_gguf(metadata)
        assert tokenizer.vocab_size == 260
        assert tokenizer.encode("ab<|end|>") == [256, 259]

    @given(
        st.dictionaries(
            st.sampled_from(("tokens", "scores", "token_type", "merges", "bos_token_id", "pre", "add_bos_token")),
            st.one_of(
                st.none(), st.integers(), st.text(max_size=4), st.lists(st.integers(-3, 9), max_size=4),
                st.lists(st.text(max_size=3), max_size=4), st.lists(st.floats(), max_size=4),
            ),
        ),
        st.booleans(),
    )  # fmt: skip
    def test_any_metadata_is_loaded_or_refused(self, changes: dict[str, Any], by_score: bool) -> None:
        base = pieces(*LETTERS) if by_score else byte_level("gpt-2")
        try:
            tokenizer = Tokenizer.from_gguf(base | {GGML + key: value for key, value in changes.items()})
        except CheckpointError:
            return
        tokenizer.decode([*tokenizer.encode("ab <s> é"), *range(tokenizer.vocab_size)])
