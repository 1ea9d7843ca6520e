"""Vocabularies whose real files are not at hand, on files made to their description."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import CheckpointError
from penstock.text.chat import chat_template
from penstock.text.facts import CHATGLM4_SPECIALS, LLAMA3_PATTERN, TEKKEN_PATTERN
from penstock.text.special import stop_ids
from penstock.text.tokenizer import Tokenizer
from tests.text.vocabularies import tiny_spm

WORDS = [bytes([value]) for value in range(256)] + [b"he", b"ll", b"hell", b"hello", b" hello", b"12"]
CHAT = [{"role": "system", "content": "S"}, {"role": "user", "content": "hello"}]


def rank_lines() -> str:
    return "\n".join(f"{base64.b64encode(word).decode()} {rank}" for rank, word in enumerate(WORDS))


class TestGlm4:
    """GLM-4: ranks in ``tokenizer.model``, control tokens in ``tokenizer_config.json``."""

    @pytest.fixture
    def tokenizer(self, tmp_path: Path) -> Tokenizer:
        (tmp_path / "tokenizer.model").write_text(rank_lines())
        added = {len(WORDS) + i: {"content": word, "special": True} for i, word in enumerate(CHATGLM4_SPECIALS)}
        added[len(WORDS) + len(added)] = {"content": "<|begin_of_image|>", "special": True}
        config = {"tokenizer_class": "ChatGLM4Tokenizer", "added_tokens_decoder": added}
        config |= {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        return Tokenizer.from_folder(tmp_path)

    def test_prefix_and_pattern(self, tokenizer: Tokenizer) -> None:
        base = len(WORDS)
        ids = tokenizer.encode("hello1234")
        assert ids[:2] == [base + 2, base + 4]
        assert tokenizer.facts.pattern == LLAMA3_PATTERN
        assert [tokenizer.token(i) for i in ids[2:]] == ["hello", "12", "3", "4"]
        assert tokenizer.encode_prompt("[gMASK]<sop>hello") == tokenizer.encode("hello")
        assert tokenizer.token_to_id("<|begin_of_image|>") == base + 10 == tokenizer.vocab_size - 1

    def test_chat(self, tokenizer: Tokenizer) -> None:
        template = chat_template(tokenizer, "chatglm", {"model_type": "chatglm"})
        assert template.name == "built-in chat template 'glm4'"
        rendered = template.render(CHAT, add_generation_prompt=True)
        ids = tokenizer.encode_prompt(rendered.text, rendered.add_special_tokens, rendered.breaks)
        text = tokenizer.decode(ids, skip_special_tokens=False)
        assert text == "[gMASK]<sop><|system|>\nS<|user|>\nhello<|assistant|>"
        ends = {tokenizer.token(i) for i in stop_ids(tokenizer)}
        assert {"<|endoftext|>", "<|user|>", "<|observation|>"} <= ends


class TestChatGlm1:
    """ChatGLM-6B: ``ice_text.model``, in its first release behind 20,000 ids of image tokens."""

    PIECES = ("<n>", "<|tab|>", "<|blank_2|>", "<|blank_80|>", "[MASK]", "[gMASK]", "<sop>", "<eop>")

    def load(self, folder: Path, **config: Any) -> Tokenizer:
        (folder / "ice_text.model").write_bytes(tiny_spm(self.PIECES))
        values = {"tokenizer_class": "ChatGLMTokenizer", "eos_token": "<eop>", "bos_token": "<sop>", **config}
        (folder / "tokenizer_config.json").write_text(json.dumps(values))
        return Tokenizer.from_folder(folder)

    def test_ids_of_both_releases(self, tmp_path: Path) -> None:
        later = self.load(tmp_path, num_image_tokens=0)
        ids = later.encode("hello\nworld")
        first = self.load(tmp_path)
        assert first.encode("hello\nworld") == [i + 20_000 for i in ids]
        assert first.decode([i + 20_000 for i in ids]) == later.decode(ids) == "hello\nworld"
        assert first.vocab_size == later.vocab_size + 20_000
        assert first.eos_id == (later.eos_id or 0) + 20_000
        assert [first.token(i) for i in first.suffix_ids] == ["[gMASK]", "<sop>"]
        assert self.load(tmp_path, num_image_tokens=7).encode("hello")[0] == later.encode("hello")[0] + 7

    def test_image_tokens_are_no_text(self, tmp_path: Path) -> None:
        tokenizer = self.load(tmp_path)
        assert (tokenizer.token(5), tokenizer.token_bytes(5)) == ("<image_5>", b"")
        assert tokenizer.decode([5, *tokenizer.encode("hi"), 19_999]) == "hi"
        assert tokenizer.token_to_id("<image_5>") is None

    def test_control_tokens_and_blanks(self, tmp_path: Path) -> None:
        tokenizer = self.load(tmp_path)
        text = "a" + " " * 82 + "b\tc[gMASK]"
        ids = tokenizer.encode(text, parse_special=False)
        assert [tokenizer.token(i) for i in ids].count("[gMASK]") == 1  # the suffix alone
        spelled = [tokenizer.token(i) for i in tokenizer.encode("a" + " " * 82 + "b", add_special_tokens=False)]
        assert "<|blank_80|>" in spelled
        assert "<|blank_2|>" in spelled
        assert tokenizer.decode(ids) == text

    @pytest.mark.parametrize("value", [-1, 1 << 30, "many"])
    def test_damage(self, tmp_path: Path, value: Any) -> None:
        with pytest.raises(CheckpointError, match="num_image_tokens"):
            self.load(tmp_path, num_image_tokens=value)


class TestTekken:
    """``tekken.json``: control tokens first, then ranks."""

    def spec(self, version: str = "v3", **changes: Any) -> dict[str, Any]:
        vocab = [{"rank": i, "token_bytes": base64.b64encode(word).decode()} for i, word in enumerate(WORDS)]
        config = {
            "pattern": TEKKEN_PATTERN, "default_vocab_size": len(WORDS) + 39, "default_num_special_tokens": 40,
            "version": version,
        }  # fmt: skip
        return {"config": config, "vocab": vocab} | changes

    def load(self, folder: Path, spec: Any) -> Tokenizer:
        (folder / "tekken.json").write_text(json.dumps(spec))
        return Tokenizer.from_folder(folder)

    @pytest.mark.parametrize("mode", ["auto", "slow", "tiktoken"])
    def test_numbers(self, tmp_path: Path, mode: str) -> None:
        self.load(tmp_path, self.spec())
        tokenizer = Tokenizer.from_folder(tmp_path, mode=mode)
        assert tokenizer.encode("hello hello") == [1, 40 + 259, 40 + 260]
        assert tokenizer.encode("12") == [1, 40 + ord("1"), 40 + ord("2")]  # the last entry is past the size
        assert tokenizer.encode("[INST]hello[/INST]") == [1, 3, 40 + 259, 4]
        assert tokenizer.token(39) == "<SPECIAL_39>"
        assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.vocab_size) == (1, 2, 11, 301)
        assert tokenizer.decode(tokenizer.encode("Grüße, 世界 🦙")) == "Grüße, 世界 🦙"

    def test_listed_control_tokens(self, tmp_path: Path) -> None:
        listed = [{"rank": 0, "token_str": "<unk>"}, {"rank": 1, "token_str": "<s>"}, {"rank": 2, "token_str": "</s>"}]
        listed += [{"rank": 34, "token_str": "[THINK]", "is_control": True}]
        tokenizer = self.load(tmp_path, self.spec("v13", special_tokens=listed))
        assert tokenizer.encode("[THINK]", add_special_tokens=False) == [34]
        assert tokenizer.token(33) == "<SPECIAL_33>"

    @pytest.mark.parametrize(
        ("version", "expected"),
        [("v3", "<s>[INST]S\n\nhello[/INST]"), ("v7", "<s>[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][INST]hello[/INST]")],
    )
    def test_chat(self, tmp_path: Path, version: str, expected: str) -> None:
        tokenizer = self.load(tmp_path, self.spec(version))
        assert chat_template(tokenizer, "mistral").render(CHAT).text == expected

    @pytest.mark.parametrize(
        "spec",
        [
            {}, {"config": 3, "vocab": []}, {"config": {}, "vocab": []},
            {"config": {"default_num_special_tokens": -1, "default_vocab_size": 300}, "vocab": []},
            {"config": {"default_num_special_tokens": 1 << 30, "default_vocab_size": 300}, "vocab": []},
            {"config": {"default_num_special_tokens": 4, "default_vocab_size": 300}, "vocab": [{}]},
        ],
    )  # fmt: skip
    def test_damage(self, tmp_path: Path, spec: Any) -> None:
        with pytest.raises(CheckpointError, match=r"tekken\.json"):
            self.load(tmp_path, spec)

    @pytest.mark.parametrize(
        "change",
        [
            {"special_tokens": 3}, {"special_tokens": [{"rank": 99, "token_str": "a"}]},
            {"special_tokens": [{"rank": 0, "token_str": "a"}, {"rank": 1, "token_str": "a"}]},
            {"special_tokens": ["a"]}, {"vocab": []},
        ],
    )  # fmt: skip
    def test_damaged_lists(self, tmp_path: Path, change: dict[str, Any]) -> None:
        with pytest.raises(CheckpointError, match=r"tekken\.json"):
            self.load(tmp_path, self.spec() | change)

    @pytest.mark.parametrize("pattern", ["(", "a" * 5000, 3])
    def test_damaged_pattern(self, tmp_path: Path, pattern: Any) -> None:
        spec = self.spec()
        spec["config"]["pattern"] = pattern
        with pytest.raises(CheckpointError, match="pattern"):
            self.load(tmp_path, spec)


def test_a_format_made_up_for_a_base_model_says_so(tmp_path: Path) -> None:
    """What a user should know about the template reaches whoever renders it."""
    (tmp_path / "tokenizer.model").write_bytes(tiny_spm())
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert "base model" in chat_template(tokenizer, "gpt2").note
    assert "chat_template=" in chat_template(tokenizer, "unheard-of").note
    assert chat_template(tokenizer, source="{{ messages[0].content }}").note == ""
