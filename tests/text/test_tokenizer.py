"""The face of a tokenizer: settings of its files, what a user may write, and damage."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import CheckpointError, ConfigError, RequestError, UnsupportedError
from penstock.text.chat import chat_template
from penstock.text.tokenizer import Tokenizer
from tests.text.vocabularies import REAL, folder_of, real, tiny_bpe, tiny_spm


@pytest.fixture
def bpe(tmp_path: Path) -> Path:
    """A folder with a tiny ``tokenizer.json`` which has ``<s>`` and ``<|end|>`` as control tokens."""
    tiny_bpe(["<s>", "<|end|>"]).save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def configure(folder: Path, **values: Any) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


def spm_folder(folder: Path, model: bytes, **values: Any) -> Path:
    (folder / "tokenizer.model").write_bytes(model)
    return configure(folder, **values) if values else folder


def test_nothing_heavy_is_imported() -> None:
    heavy = "('tokenizers', 'sentencepiece', 'tiktoken', 'jinja2', 'torch', 'transformers')"
    modules = "penstock.text.tokenizer, penstock.text.templates, penstock.text.chat, penstock.text.special"
    code = f"import sys, {modules}; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ranks_need_no_library_of_their_own(tmp_path: Path) -> None:
    ranks = b"\n".join(base64.b64encode(bytes([i])) + b" %d" % i for i in range(256))
    (tmp_path / "qwen.tiktoken").write_bytes(ranks)
    code = (
        "import sys; sys.modules['tiktoken'] = None\n"
        "from penstock.text.tokenizer import Tokenizer\n"
        f"for mode in ('auto', 'slow'): assert Tokenizer.from_folder({str(tmp_path)!r}, mode=mode)"
        ".encode('ab<|im_end|>') == [97, 98, 258]"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestAround:
    def test_bos_and_eos_by_configuration(self, bpe: Path) -> None:
        configure(bpe, bos_token="<s>", eos_token={"content": "<|end|>"}, add_bos_token=True, add_eos_token=True)
        tokenizer = Tokenizer.from_folder(bpe)
        inner = tokenizer.encode("hello", add_special_tokens=False)
        assert tokenizer.encode("hello") == [tokenizer.bos_id, *inner, tokenizer.eos_id]

    def test_configuration_takes_bos_away(self, tmp_path: Path) -> None:
        tokenizer = Tokenizer.from_folder(spm_folder(tmp_path, tiny_spm(), add_bos_token=False))
        assert tokenizer.bos_id not in tokenizer.encode("hello")
        assert Tokenizer.from_folder(spm_folder(tmp_path, tiny_spm(), x=1)).encode("hello")[0] == 1

    @pytest.mark.parametrize("text", ["<s>hello", "<s><s>hello", "hello"])
    def test_never_a_second_bos_from_us(self, tmp_path: Path, text: str) -> None:
        tokenizer = Tokenizer.from_folder(spm_folder(tmp_path, tiny_spm()))
        ids = tokenizer.encode_prompt(text)
        assert ids[0] == tokenizer.bos_id
        assert ids.count(1) == max(1, text.count("<s>"))

    def test_no_bos_where_none_belongs(self) -> None:
        tokenizer = real("qwen2")
        assert tokenizer.encode_prompt("hi") == tokenizer.encode("hi", add_special_tokens=False)

    @pytest.mark.parametrize("name", ["llama2", "llama3", "stories", "chatglm2"])
    def test_prompt_with_its_own_bos(self, name: str) -> None:
        tokenizer = real(name)
        lead = "".join(tokenizer.token_text(i) for i in tokenizer.prefix_ids)
        assert tuple(tokenizer.encode_prompt(lead + "hi")).count(tokenizer.prefix_ids[0]) == 1
        assert tuple(tokenizer.encode_prompt("hi"))[: len(tokenizer.prefix_ids)] == tokenizer.prefix_ids

    def test_without_special_tokens_nothing_is_added(self) -> None:
        assert 1 not in real("llama2").encode_prompt("hi", add_special_tokens=False)


class TestControlTokens:
    @pytest.mark.parametrize("name", REAL)
    def test_users_text_stays_text(self, name: str) -> None:
        tokenizer = real(name)
        for word in [*list(tokenizer.control_texts)[:12], *list(tokenizer.control_texts)[-3:]]:
            ids = tokenizer.encode(f"a{word}b", add_special_tokens=False, parse_special=False)
            assert not tokenizer.special_ids & set(ids), word
            assert tokenizer.decode(ids) == f"a{word}b"
            assert tokenizer.control_texts[word] in tokenizer.encode(f"a{word}b", add_special_tokens=False)

    @pytest.mark.parametrize("name", REAL)
    def test_a_break_keeps_a_control_token_apart(self, name: str) -> None:
        tokenizer = real(name)
        word = next(iter(tokenizer.control_texts))
        text = f"{word}a{word}b"
        ids = tokenizer.encode_prompt(text, add_special_tokens=False, breaks={len(word) + 2})
        assert ids.count(tokenizer.control_texts[word]) == 1
        assert tokenizer.decode(ids, skip_special_tokens=False).replace(" ", "") == text

    def test_a_hundred_thousand_of_them_are_quick(self) -> None:
        tokenizer = real("qwen")
        ids = tokenizer.encode("<|im_end|>" * 100_000, parse_special=False)
        assert not tokenizer.special_ids & set(ids)

    @pytest.mark.parametrize("name", ["qwen", "qwen2", "llama2", "gguf-phi3"])
    def test_a_message_full_of_them_stays_a_message(self, name: str) -> None:
        tokenizer = real(name)
        word = list(tokenizer.control_texts)[-1]
        template = chat_template(tokenizer, name="chatml")
        harmless = template.render([{"role": "user", "content": "x"}], add_generation_prompt=True)
        expected = [i for i in tokenizer.encode_prompt(harmless.text) if i in tokenizer.special_ids]
        rendered = template.render([{"role": "user", "content": word * 100_000}], add_generation_prompt=True)
        ids = tokenizer.encode_prompt(rendered.text, breaks=rendered.breaks)
        assert [i for i in ids if i in tokenizer.special_ids] == expected

    def test_the_two_ways_do_not_disturb_each_other(self, bpe: Path) -> None:
        tokenizer = Tokenizer.from_folder(bpe)
        first = tokenizer.encode("<|end|>")
        assert len(first) == 1
        assert len(tokenizer.encode("<|end|>", parse_special=False)) > 1
        assert tokenizer.encode("<|end|>") == first

    def test_token_named_only_by_the_configuration(self, bpe: Path) -> None:
        size = Tokenizer.from_folder(bpe).vocab_size
        configure(bpe, added_tokens_decoder={str(size): {"content": "<|new|>", "special": True}})
        tokenizer = Tokenizer.from_folder(bpe)
        assert tokenizer.encode("<|new|>") == [size]
        assert size in tokenizer.special_ids

    def test_token_which_only_the_configuration_calls_special(self, bpe: Path) -> None:
        spec = json.loads((bpe / "tokenizer.json").read_text())
        next(token for token in spec["added_tokens"] if token["content"] == "<|end|>")["special"] = False
        (bpe / "tokenizer.json").write_text(json.dumps(spec))
        tokenizer = Tokenizer.from_folder(configure(bpe, eos_token="<|end|>"))
        assert tokenizer.decode(tokenizer.encode("hi<|end|>")) == "hi"
        assert not tokenizer.eos_ids & set(tokenizer.encode("<|end|>", parse_special=False))

    def test_added_token_takes_the_place_of_a_piece(self, tmp_path: Path) -> None:
        model = tiny_spm(("[UNUSED_1]",))
        place = Tokenizer.from_folder(spm_folder(tmp_path, model)).token_to_id("[UNUSED_1]")
        entry = {str(place): {"content": "<|im_start|>", "special": True}}
        tokenizer = Tokenizer.from_folder(
            spm_folder(tmp_path, model, tokenizer_class="InternLM2Tokenizer", added_tokens_decoder=entry)
        )
        assert tokenizer.encode("<|im_start|>x", add_special_tokens=False)[0] == place
        assert tokenizer.token_to_id("<|im_start|>") == place

    def test_legacy_decides_about_the_space_after_a_control_token(self, tmp_path: Path) -> None:
        tokens = {}
        for legacy in (True, False):
            tokenizer = Tokenizer.from_folder(spm_folder(tmp_path, tiny_spm(), legacy=legacy))
            tokens[legacy] = [tokenizer.token(i) for i in tokenizer.encode("<s>hello", add_special_tokens=False)]
        assert str(tokens[True][1]).startswith("▁")
        assert not str(tokens[False][1]).startswith("▁")


class TestText:
    @pytest.mark.parametrize("name", ["gpt2", "llama2", "qwen"])
    @pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
    def test_lone_surrogate(self, name: str, text: str) -> None:
        tokenizer = real(name)
        for encode in (tokenizer.encode, tokenizer.encode_prompt):
            with pytest.raises(RequestError, match="surrogate"):
                encode(text)

    @pytest.mark.parametrize("name", [name for name in REAL if name != "baichuan"])
    def test_nul_and_byte_order_mark(self, name: str) -> None:
        tokenizer = real(name)
        assert tokenizer.decode(tokenizer.encode("a\x00\ufeffb")) == "a\x00\ufeffb"

    @pytest.mark.parametrize("name", [name for name in REAL if name != "baichuan"])
    @pytest.mark.parametrize(
        "text", ["👨‍👩‍👧‍👦🏳️‍🌈🦙", "עברית \u202eRTL\u202c العربية", "नमस्ते e\u0323", "\u2028\u0085\u00a0x"]
    )
    def test_joiners_and_other_directions(self, name: str, text: str) -> None:
        tokenizer = real(name)
        wanted = unicodedata.normalize("NFC", text) if name.startswith("qwen") else text
        assert tokenizer.decode(tokenizer.encode(text)) == wanted

    @pytest.mark.parametrize("name", REAL)
    def test_empty(self, name: str) -> None:
        tokenizer = real(name)
        assert tokenizer.encode("", add_special_tokens=False) == []
        assert tokenizer.decode([]) == ""

    @pytest.mark.parametrize("name", REAL)
    def test_ids_without_a_token_add_nothing(self, name: str) -> None:
        tokenizer = real(name)
        for token_id in (tokenizer.vocab_size, tokenizer.vocab_size + 1000, 2**31, -1):
            assert tokenizer.token_bytes(token_id) == b""
            assert tokenizer.token(token_id) is None
        assert tokenizer.decode([tokenizer.vocab_size + 7]) == ""

    @pytest.mark.parametrize("name", REAL)
    def test_bytes_of_tokens_make_the_text(self, name: str) -> None:
        tokenizer = real(name)
        ids = tokenizer.encode("Grüße, 世界 🦙!", add_special_tokens=False)
        assert b"".join(tokenizer.token_bytes(i) for i in ids).decode().strip() == "Grüße, 世界 🦙!"

    def test_a_long_run_of_one_letter(self) -> None:
        for name in ("gpt2", "qwen", "llama2"):
            tokenizer = real(name)
            assert tokenizer.decode(tokenizer.encode("a" * 200_000)) == "a" * 200_000

    def test_a_text_which_the_library_gives_up_on_is_refused(self, bpe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class PanicError(BaseException):
            """What Rust's panics come as: no ``Exception``, so that a server would fall over it."""

        def panic(*_: Any, **__: Any) -> None:
            raise PanicError("retry-limit-in-match over")

        tokenizer = Tokenizer.from_folder(bpe)
        backend: Any = tokenizer._backend
        monkeypatch.setattr(backend, "_tokenizer", SimpleNamespace(encode=panic))
        with pytest.raises(RequestError, match="gave up on a text of 5 characters"):
            tokenizer.encode("hello")

    def test_longest_token_bounds_the_number_of_ids(self) -> None:
        tokenizer = real("stories")
        text = "Once upon a time there was a girl"
        assert len(tokenizer.encode(text)) >= len(text) / tokenizer.longest_token


class TestFolder:
    def test_no_tokenizer_names_the_way_out(self, tmp_path: Path) -> None:
        for folder in (tmp_path, tmp_path / "absent"):
            with pytest.raises(CheckpointError, match="skip_tokenizer_init=True"):
                Tokenizer.from_folder(folder)

    def test_unknown_mode(self, bpe: Path) -> None:
        with pytest.raises(ConfigError, match="did you mean 'slow'"):
            Tokenizer.from_folder(bpe, mode="slwo")

    def test_mode_without_its_file(self, bpe: Path) -> None:
        with pytest.raises(CheckpointError, match="mode 'spm'"):
            Tokenizer.from_folder(bpe, mode="spm")

    def test_templates_in_all_their_places(self, bpe: Path) -> None:
        configure(bpe, chat_template=[{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}])
        assert dict(Tokenizer.from_folder(bpe).chat_templates) == {"default": "A", "tool_use": "B"}
        (bpe / "chat_template.json").write_text('{"chat_template": "C"}')
        assert Tokenizer.from_folder(bpe).chat_template == "C"
        (bpe / "chat_template.jinja").write_text("D")
        (bpe / "additional_chat_templates").mkdir()
        (bpe / "additional_chat_templates" / "rag.jinja").write_text("E")
        tokenizer = Tokenizer.from_folder(bpe)
        assert tokenizer.chat_template == "D"
        assert tokenizer.chat_templates["rag"] == "E"

    def test_older_companion_files(self, tmp_path: Path) -> None:
        spm_folder(tmp_path, tiny_spm())
        size = Tokenizer.from_folder(tmp_path).vocab_size
        (tmp_path / "added_tokens.json").write_text(json.dumps({"<|pad|>": size}))
        (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<|pad|>"}))
        tokenizer = Tokenizer.from_folder(tmp_path)
        assert (tokenizer.pad_id, tokenizer.vocab_size) == (size, size + 1)
        assert size in tokenizer.special_ids

    def test_llama3_rank_file(self, tmp_path: Path) -> None:
        ranks = b"\n".join(base64.b64encode(bytes([i])) + b" %d" % i for i in range(256))
        (tmp_path / "tokenizer.model").write_bytes(ranks)
        tokenizer = Tokenizer.from_folder(tmp_path)
        assert tokenizer.encode("a") == [256, 97]
        assert tokenizer.token_to_id("<|eot_id|>") == 256 + 9
        assert tokenizer.token_to_id("<|start_header_id|>") == 256 + 6
        assert tokenizer.vocab_size == 256 + 256

    def test_chatglm1(self, tmp_path: Path) -> None:
        model = tiny_spm(("<n>", "<|tab|>", "<|blank_2|>", "<|blank_3|>", "[MASK]", "[gMASK]", "<sop>", "<eop>"))
        (tmp_path / "ice_text.model").write_bytes(model)
        tokenizer = Tokenizer.from_folder(configure(tmp_path, tokenizer_class="ChatGLMTokenizer"))
        ids = tokenizer.encode("hello\n\tx   y  z")
        assert [tokenizer.token(i) for i in ids[-2:]] == ["[gMASK]", "<sop>"]
        assert {"<n>", "<|tab|>", "<|blank_3|>", "<|blank_2|>"} <= {tokenizer.token(i) for i in ids}
        assert tokenizer.decode(ids) == "hello\n\tx   y  z"
        assert tokenizer.eos_id == tokenizer.token_to_id("<eop>")

    def test_vocab_and_merges_of_qwen2(self, tmp_path: Path) -> None:
        trained = tiny_bpe()
        trained.model.save(str(tmp_path))
        tokenizer = Tokenizer.from_folder(configure(tmp_path, tokenizer_class="Qwen2Tokenizer"))
        digits = tokenizer.encode("12345", add_special_tokens=False)
        assert len(digits) == 5  # Qwen cuts numbers into digits
        assert tokenizer.decode(tokenizer.encode("e\u0301 hello")) == "é hello"


class TestDamage:
    def check(self, folder: Path, file: str) -> None:
        with pytest.raises(CheckpointError, match=file.replace(".", r"\.")):
            Tokenizer.from_folder(folder)

    @pytest.mark.parametrize(
        "content",
        [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"model": {}}', b'{"model": {"type": "Nope"}}', b"[" * 100_000,
         b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["b c"]}}', b"version https://git-lfs.github.com/spec/v1\n"],
    )  # fmt: skip
    def test_tokenizer_json(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "tokenizer.json").write_bytes(content)
        self.check(tmp_path, "tokenizer.json")

    @given(at=st.floats(0, 1))
    def test_truncated_tokenizer_json(self, at: float, tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = tmp_path_factory.mktemp("cut")
        data = tiny_bpe().to_str().encode()
        (folder / "tokenizer.json").write_bytes(data[: int(at * (len(data) - 2))])
        self.check(folder, "tokenizer.json")

    def test_unknown_decoder(self, bpe: Path) -> None:
        spec = json.loads((bpe / "tokenizer.json").read_text())
        spec["decoder"] = {"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": False}
        (bpe / "tokenizer.json").write_text(json.dumps(spec))
        with pytest.raises(UnsupportedError, match="CTC"):
            Tokenizer.from_folder(bpe)

    @pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"garbage", b"\x0a\xff\xff\xff\xff\x0f"])
    def test_tokenizer_model(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "tokenizer.model").write_bytes(content)
        self.check(tmp_path, "tokenizer.model")

    @pytest.mark.parametrize(
        "content",
        [b"IQ== 0\nbroken", b"IQ== 0\nIg== 0", b"IQ== 0\n\xff\xff 1", b"IQ== -1", b"IQ== 99999999", b"IQ== 0"],
    )
    def test_ranks(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "qwen.tiktoken").write_bytes(content)
        self.check(tmp_path, "qwen.tiktoken")

    @pytest.mark.parametrize(
        "config",
        ["[]", "{", '{"bos_token": 3}', '{"add_bos_token": "yes"}', '{"added_tokens_decoder": []}',
         '{"added_tokens_decoder": {"x": {"content": "a"}}}',
         '{"added_tokens_decoder": {"99999999999": {"content": "a"}}}'],
    )  # fmt: skip
    def test_tokenizer_config(self, bpe: Path, config: str) -> None:
        (bpe / "tokenizer_config.json").write_text(config)
        if config == '{"added_tokens_decoder": []}':  # an empty list is no table, but says nothing either
            assert Tokenizer.from_folder(bpe).vocab_size > 0
            return
        self.check(bpe, "tokenizer_config.json")

    @pytest.mark.parametrize("merges", ["a b c", "zz yy"])
    def test_merges(self, tmp_path: Path, merges: str) -> None:
        (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1}')
        (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
        self.check(tmp_path, "merges.txt")

    @given(changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6))
    @pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
    def test_changed_bytes_never_fail_later(
        self, name: str, changes: list[tuple[float, int]], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """Damage is told when loading; what loads can encode and decode."""
        data = bytearray(tiny_spm() if name == "tokenizer.model" else tiny_bpe().to_str().encode())
        for place, value in changes:
            data[int(place * (len(data) - 1))] = value
        folder = tmp_path_factory.mktemp("changed")
        (folder / name).write_bytes(data)
        try:
            tokenizer = Tokenizer.from_folder(folder)
        except CheckpointError as error:
            if name not in str(error):
                raise
        else:
            tokenizer.decode([*tokenizer.encode("hello 你好 <s>"), *range(tokenizer.vocab_size)])

    def test_too_large(self, bpe: Path) -> None:
        with (bpe / "tokenizer_config.json").open("wb") as file:
            file.truncate(1 << 30)
        self.check(bpe, "tokenizer_config.json")


def test_reference_files_can_be_copied(tmp_path: Path) -> None:
    """What the tests above build is what a checkpoint looks like: the real files load from a folder of their own."""
    from tests.helpers import shared

    source = shared("assets", "tokenizers", "llama2", "tokenizer.model")
    folder = folder_of(tmp_path, [source], {"tokenizer_class": "LlamaTokenizer", "add_eos_token": True})
    assert Tokenizer.from_folder(folder).encode("hi")[-1] == 2
