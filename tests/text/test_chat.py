"""Built-in prompt formats: each family's published form, chosen by family, vocabulary and config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from penstock.errors import ConfigError, RequestError, TemplateError
from penstock.text.builtin_templates import BY_FAMILY, FORMATS, select_template
from penstock.text.chat import chat_template
from penstock.text.special import stop_ids
from penstock.text.templates import ChatTemplate
from penstock.text.tokenizer import Tokenizer
from tests.helpers import shared
from tests.text.vocabularies import folder_of, real

TALK = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "U1"},
    {"role": "assistant", "content": "A1"},
    {"role": "user", "content": "U2"},
]
RENDERED = {
    "llama2": "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU1 [/INST] A1 </s><s>[INST] U2 [/INST]",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
    "U1<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA1<|eot_id|><|start_header_id|>user<|end_header_id|>"
    "\n\nU2<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s>[INST] S\n\nU1 [/INST] A1</s>[INST] U2 [/INST]",
    "mistral-v3": "<s>[INST] S\n\nU1[/INST] A1</s>[INST] U2[/INST]",
    "mistral-tekken": "<s>[INST]U1[/INST]A1</s>[INST]S\n\nU2[/INST]",
    "mistral-v7": "<s>[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][INST]U1[/INST]A1</s>[INST]U2[/INST]",
    "chatml": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n"
    "<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\n",
    "chatglm": "S[Round 0]\n问：U1\n答：A1\n[Round 1]\n问：U2\n答：",
    "chatglm2": "S\n\n[Round 1]\n\n问：U1\n\n答：A1\n\n[Round 2]\n\n问：U2\n\n答：",
    "chatglm3": "<|system|>\n S<|user|>\n U1<|assistant|>\n A1<|user|>\n U2<|assistant|>",
    "glm4": "<|system|>\nS<|user|>\nU1<|assistant|>\nA1<|user|>\nU2<|assistant|>",
    "baichuan": "S<U>U1<A>A1<U>U2<A>",
    "gemma": "<s><start_of_turn>user\nS\n\nU1<end_of_turn>\n<start_of_turn>model\nA1<end_of_turn>\n"
    "<start_of_turn>user\nU2<end_of_turn>\n<start_of_turn>model\n",
    "phi3": "<|system|>\nS<|end|>\n<|user|>\nU1<|end|>\n<|assistant|>\nA1<|end|>\n<|user|>\nU2<|end|>\n<|assistant|>\n",
    "zephyr": "<|system|>\nS</s>\n<|user|>\nU1</s>\n<|assistant|>\nA1</s>\n<|user|>\nU2</s>\n<|assistant|>\n",
    "plain": "S\n\nUser: U1\nAssistant: A1\nUser: U2\nAssistant:",
    "continue": "S\nU1\nA1\nU2",
}
RENDERED |= {"qwen": RENDERED["chatml"], "qwen2": RENDERED["chatml"], "internlm2": "<s>" + RENDERED["chatml"]}
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>", "user_token": "<U>", "assistant_token": "<A>"}


@pytest.mark.parametrize("name", FORMATS)
def test_form_of_a_conversation(name: str) -> None:
    template = ChatTemplate(FORMATS[name].source, special_tokens=VARIABLES)
    assert template.render(TALK).text == RENDERED[name]


@pytest.mark.parametrize("name", ["qwen", "qwen2"])
def test_qwen_has_a_system_message_of_its_own(name: str) -> None:
    text = ChatTemplate(FORMATS[name].source).render(TALK[1:2]).text
    assert text.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nU1")


def test_single_question_to_chatglm_is_itself() -> None:
    assert ChatTemplate(FORMATS["chatglm"].source).render(TALK[1:2]).text == "U1"


@pytest.mark.parametrize("name", ["llama2", "mistral", "gemma"])
def test_turns_must_alternate(name: str) -> None:
    with pytest.raises(TemplateError, match="alternate"):
        ChatTemplate(FORMATS[name].source, special_tokens=VARIABLES).render([TALK[1], TALK[1]])


@dataclass
class Vocabulary:
    control: dict[str, int] = field(default_factory=dict)
    vocab_size: int = 32000
    lead: int = 1

    @property
    def control_texts(self) -> Mapping[str, int]:
        return self.control

    def token(self, token_id: int) -> str | None:
        return None


@pytest.mark.parametrize(
    ("family", "control", "hints", "wanted"),
    [
        ("llama", [], {}, "llama2"), ("llama", ["<|start_header_id|>"], {}, "llama3"),
        ("llama", ["<|im_start|>"], {}, "chatml"), ("mistral", [], {}, "mistral"),
        ("mistral", ["[INST]"], {}, "mistral-v3"), ("mixtral", [], {}, "mistral"),
        ("qwen", ["<|im_start|>"], {}, "qwen"), ("qwen2", ["<|im_start|>"], {}, "qwen2"), ("qwen2", [], {}, "plain"),
        ("qwen3", ["<|im_start|>"], {}, "chatml"), ("chatglm", ["<sop>"], {"position_encoding_2d": True}, "chatglm"),
        ("chatglm", ["[gMASK]", "sop"], {}, "chatglm2"), ("chatglm", ["[gMASK]", "<|user|>"], {}, "chatglm3"),
        ("chatglm", ["[gMASK]", "<sop>", "<|user|>"], {}, "glm4"), ("glm4", [], {}, "glm4"),
        ("baichuan", [], {}, "baichuan"), ("gpt2", [], {}, "continue"), ("bloom", [], {}, "continue"),
        ("gemma2", ["<start_of_turn>"], {}, "gemma"), ("phi3", [], {}, "phi3"), ("unheard-of", [], {}, "plain"),
        (None, [], {}, "plain"),
    ],
)  # fmt: skip
def test_choice(family: str | None, control: list[str], hints: dict[str, object], wanted: str) -> None:
    vocabulary = Vocabulary({word: i for i, word in enumerate(control)})
    assert select_template(family, vocabulary, hints).name == wanted


def test_small_llama_vocabulary_is_a_base_model() -> None:
    assert select_template("llama", real("stories")).name == "continue"


def test_every_family_has_a_form() -> None:
    assert set(BY_FAMILY.values()) <= set(FORMATS.values())
    assert FORMATS["plain"].note
    assert FORMATS["continue"].note


class TestChatTemplate:
    def test_the_checkpoints_own_comes_first(self) -> None:
        template = chat_template(real("qwen2"), "llama")
        assert template.name == "chat_template of the checkpoint"
        assert not template.add_special_tokens

    def test_the_users_before_that(self) -> None:
        assert chat_template(real("qwen2"), source="{{ bos_token }}X").render(TALK).text == "X"

    def test_by_name(self) -> None:
        assert chat_template(real("llama2"), name="chatml").render(TALK).text == RENDERED["chatml"]
        with pytest.raises(ConfigError, match="did you mean 'llama3'"):
            chat_template(real("llama2"), name="lama3")

    @pytest.mark.parametrize(("name", "family"), [("llama2", "llama"), ("mistral", "mistral"), ("llama3", "llama")])
    def test_one_bos(self, name: str, family: str) -> None:
        tokenizer = real(name)
        rendered = chat_template(tokenizer, family).render(TALK[1:2])
        ids = tokenizer.encode_prompt(rendered.text, rendered.add_special_tokens, rendered.breaks)
        assert ids.count(tokenizer.bos_id or 0) == 1
        assert ids[0] == tokenizer.bos_id

    def test_llama2_ids_of_the_reference_code(self) -> None:
        """llama's ``generation.py``: BOS, then SentencePiece over ``[INST] hello [/INST]``."""
        tokenizer = real("llama2")
        rendered = chat_template(tokenizer, "llama").render([{"role": "user", "content": "hello"}])
        assert tokenizer.encode_prompt(rendered.text, False) == [1, 518, 25580, 29962, 22172, 518, 29914, 25580, 29962]

    def test_chatglm2_prefix_comes_from_the_tokenizer(self) -> None:
        tokenizer = real("chatglm2")
        rendered = chat_template(tokenizer, "chatglm").render([{"role": "user", "content": "你好"}])
        # From the model card's repository: tokenizer.build_prompt("你好") and its ids.
        assert rendered.text == "[Round 1]\n\n问：你好\n\n答："
        assert tokenizer.encode_prompt(rendered.text, rendered.add_special_tokens)[:2] == [64790, 64792]

    def test_baichuan_roles(self, tmp_path: Path) -> None:
        source = shared("assets", "tokenizers", "baichuan", "tokenizer.model")
        tokenizer = Tokenizer.from_folder(folder_of(tmp_path, [source], {"tokenizer_class": "BaichuanTokenizer"}))
        rendered = chat_template(tokenizer, "baichuan").render([{"role": "user", "content": "你好<reserved_103>"}])
        ids = tokenizer.encode_prompt(rendered.text, rendered.add_special_tokens, rendered.breaks)
        assert (ids[0], ids[-1]) == (195, 196)
        assert 196 not in ids[:-1]


class TestStopIds:
    def test_union_of_all_sources(self) -> None:
        tokenizer = real("qwen2")
        found = stop_ids(tokenizer, {"eos_token_id": [7, 8]}, {"eos_token_id": 9})
        assert found == {7, 8, 9, 151645, 151643}

    def test_llama3_turns(self) -> None:
        assert {128008, 128009, 128001} <= stop_ids(real("llama3"))

    def test_qwen1_stop_words(self) -> None:
        found = stop_ids(real("qwen"), {"stop_words_ids": [[151643], [151644], [1, 2]], "eos_token_id": None})
        assert found == {151643, 151644, 151645}

    def test_chatglm_stops_at_the_next_turn(self, tmp_path: Path) -> None:
        source = shared("assets", "tokenizers", "chatglm2", "tokenizer.model")
        tokenizer = Tokenizer.from_folder(folder_of(tmp_path, [source], {"tokenizer_class": "ChatGLMTokenizer"}))
        assert stop_ids(tokenizer) == {2, 64795, 64797}

    def test_without_tokenizer(self) -> None:
        assert stop_ids(None, {"eos_token_id": 5}, {"eos_token_id": [6, -1]}) == {5, 6}
        assert stop_ids(None) == frozenset()

    @pytest.mark.parametrize("value", ["2", 2.0, True, [1, "2"], {"a": 1}, -7, 1 << 40])
    def test_damaged(self, value: object) -> None:
        from penstock.errors import CheckpointError

        with pytest.raises(CheckpointError, match="eos_token_id"):
            stop_ids(None, {"eos_token_id": value})


def test_wrong_messages_are_requests_faults() -> None:
    with pytest.raises(RequestError):
        chat_template(real("llama2"), "llama").render([])
