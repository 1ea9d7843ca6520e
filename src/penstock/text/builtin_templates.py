"""Prompt formats of families whose checkpoints come without a chat template, as data.

Each follows the format its authors published (model card or reference code). ``select_template`` picks one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Format:
    """A template with what belongs to it; see :class:`penstock.text.templates.ChatTemplate`."""

    name: str
    source: str
    stop_tokens: tuple[str, ...] = ()
    stop_strings: tuple[str, ...] = ()
    add_special_tokens: bool = False
    note: str = ""


class Vocabulary(Protocol):
    """The part of a tokenizer that the choice looks at."""

    vocab_size: int
    lead: int

    @property
    def control_texts(self) -> Mapping[str, int]: ...
    def token(self, token_id: int) -> str | None: ...


_SYSTEM_FIRST = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set rest = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
)
_ALTERNATE = (
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('messages must alternate user, assistant, user, … after an optional system message') }}"
    "{% endif %}"
)

LLAMA2 = Format(
    "llama2",
    _SYSTEM_FIRST + "{% for m in rest %}" + _ALTERNATE + "{% if m['role'] == 'user' %}"
    "{{ bos_token }}[INST] {% if loop.first and system %}{{ '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' }}{% endif %}"
    "{{ m['content'] | trim }} [/INST]"
    "{% else %}{{ ' ' + (m['content'] | trim) + ' ' + eos_token }}{% endif %}{% endfor %}",
)
MISTRAL = Format(
    "mistral",
    _SYSTEM_FIRST + "{{ bos_token }}{% for m in rest %}" + _ALTERNATE + "{% if m['role'] == 'user' %}"
    "[INST] {% if loop.first and system %}{{ system + '\\n\\n' }}{% endif %}{{ m['content'] }} [/INST]"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}",
)
MISTRAL_V3 = Format("mistral-v3", MISTRAL.source.replace("{{ m['content'] }} [/INST]", "{{ m['content'] }}[/INST]"))
# From Nemo on nothing stands between control tokens and text, and a system message goes with the last user message …
MISTRAL_TEKKEN = Format(
    "mistral-tekken",
    _SYSTEM_FIRST + "{{ bos_token }}{% for m in rest %}" + _ALTERNATE + "{% if m['role'] == 'user' %}"
    "[INST]{% if loop.last and system %}{{ system + '\\n\\n' }}{% endif %}{{ m['content'] }}[/INST]"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}",
)
# … until version 7 gave it control tokens of its own.
MISTRAL_V7 = Format(
    "mistral-v7",
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "[SYSTEM_PROMPT]{{ m['content'] }}[/SYSTEM_PROMPT]{% elif m['role'] == 'user' %}[INST]{{ m['content'] }}[/INST]"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}",
)
LLAMA3 = Format(
    "llama3",
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n'"
    " + (m['content'] | trim) + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
    stop_tokens=("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"),
)
_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + (m['content'] or '') + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
)
_CHATML_STOPS = ("<|im_end|>", "<|endoftext|>")
CHATML = Format("chatml", _CHATML, stop_tokens=_CHATML_STOPS)
QWEN = Format("qwen", _DEFAULT_SYSTEM + _CHATML, stop_tokens=(*_CHATML_STOPS, "<|im_start|>"))
QWEN2 = Format("qwen2", _DEFAULT_SYSTEM + _CHATML, stop_tokens=_CHATML_STOPS)
INTERNLM2 = Format("internlm2", "{{ bos_token }}" + _CHATML, stop_tokens=("<|im_end|>", "</s>"))
CHATGLM1 = Format(
    "chatglm",
    _SYSTEM_FIRST + "{% if rest | length == 1 %}{{ system + rest[0]['content'] }}{% else %}{{ system }}"
    "{% for m in rest %}{% if m['role'] == 'user' %}"
    "{{ '[Round ' ~ (loop.index0 // 2) ~ ']\\n问：' + m['content'] + '\\n答：' }}"
    "{% else %}{{ m['content'] + '\\n' }}{% endif %}{% endfor %}{% endif %}",
    stop_tokens=("<eop>",),
    add_special_tokens=True,
)
CHATGLM2 = Format(
    "chatglm2",
    _SYSTEM_FIRST + "{% if system %}{{ system + '\\n\\n' }}{% endif %}{% for m in rest %}{% if m['role'] == 'user' %}"
    "{{ '[Round ' ~ (loop.index0 // 2 + 1) ~ ']\\n\\n问：' + m['content'] + '\\n\\n答：' }}"
    "{% else %}{{ m['content'] + '\\n\\n' }}{% endif %}{% endfor %}",
    stop_tokens=("</s>",),
    add_special_tokens=True,
)
_CHATGLM_STOPS = ("<|user|>", "<|observation|>", "<|endoftext|>", "</s>")
CHATGLM3 = Format(
    "chatglm3",
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n ' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    stop_tokens=_CHATGLM_STOPS,
    add_special_tokens=True,
)
GLM4 = Format(
    "glm4",
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    stop_tokens=_CHATGLM_STOPS,
    add_special_tokens=True,
)
BAICHUAN = Format(
    "baichuan",
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ user_token }}"
    "{% elif m['role'] == 'assistant' %}{{ assistant_token }}{% endif %}{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ assistant_token }}{% endif %}",
    stop_tokens=("</s>",),
)
GEMMA = Format(
    "gemma",
    _SYSTEM_FIRST + "{{ bos_token }}{% for m in rest %}" + _ALTERNATE +
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else 'user') + '\\n' }}"
    "{% if loop.first and system %}{{ system + '\\n\\n' }}{% endif %}{{ (m['content'] | trim) + '<end_of_turn>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
    stop_tokens=("<end_of_turn>", "<eos>"),
)  # fmt: skip
PHI3 = Format(
    "phi3",
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
    stop_tokens=("<|end|>", "<|endoftext|>"),
)
ZEPHYR = Format(
    "zephyr",
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + eos_token + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
    stop_tokens=("<|endoftext|>", "</s>"),
)
PLAIN = Format(
    "plain",
    _SYSTEM_FIRST + "{% if system %}{{ system + '\\n\\n' }}{% endif %}{% for m in rest %}"
    "{{ ('User' if m['role'] == 'user' else 'Assistant' if m['role'] == 'assistant' else m['role'] | capitalize)"
    " + ': ' + m['content'] + '\\n' }}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}",
    stop_strings=("\nUser:",),
    add_special_tokens=True,
    note="the checkpoint has no chat template and its family none that is known: messages are written as"
    " 'User: …' and 'Assistant: …'. Give a template with chat_template= (--chat-template) if it was trained on one",
)
CONTINUE = Format(
    "continue",
    "{% for m in messages %}{{ m['content'] }}{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}",
    add_special_tokens=True,
    note="the checkpoint is a base model without a chat format: the messages are put one after the other and the"
    " model continues them",
)

FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        LLAMA2, LLAMA3, MISTRAL, MISTRAL_V3, MISTRAL_TEKKEN, MISTRAL_V7, CHATML, QWEN, QWEN2, INTERNLM2, CHATGLM1,
        CHATGLM2, CHATGLM3, GLM4, BAICHUAN, GEMMA, PHI3, ZEPHYR, PLAIN, CONTINUE,
    )
}  # fmt: skip
BY_FAMILY: dict[str, Format] = {
    "qwen": QWEN, "qwen2": QWEN2, "qwen2_moe": QWEN2, "qwen3": CHATML, "qwen3_moe": CHATML, "internlm2": INTERNLM2,
    "glm": GLM4, "glm4": GLM4, "baichuan": BAICHUAN, "gemma": GEMMA, "gemma2": GEMMA, "gemma3": GEMMA,
    "gemma3_text": GEMMA, "phi3": PHI3, "stablelm": ZEPHYR, "mixtral": MISTRAL, "gpt2": CONTINUE, "gpt_neo": CONTINUE,
    "gptj": CONTINUE, "gpt_neox": CONTINUE, "opt": CONTINUE, "bloom": CONTINUE,
}  # fmt: skip
# A control token that only one format has decides before the family does: many families share `llama`.
BY_TOKEN: Sequence[tuple[str, Format]] = (
    ("<|start_header_id|>", LLAMA3), ("<start_of_turn>", GEMMA), ("[INST]", MISTRAL_V3),
)  # fmt: skip
LLAMA2_VOCABULARY = 32000


def select_template(family: str | None, tokenizer: Vocabulary, hints: Mapping[str, object] | None = None) -> Format:
    """The format for a checkpoint of ``family`` (``model_type``) that has no chat template.

    ``hints``: the checkpoint's ``config.json``, where a family of one name had several formats (ChatGLM 1 to 4).
    """
    control = tokenizer.control_texts
    if family == "chatglm":
        return _chatglm(control, hints or {})
    for token, chosen in BY_TOKEN:
        if token in control:
            return _mistral(tokenizer) if chosen is MISTRAL_V3 else chosen
    if family in BY_FAMILY:
        chosen = BY_FAMILY[family]
        missing = chosen.name in ("chatml", "qwen", "qwen2", "internlm2") and "<|im_start|>" not in control
        return PLAIN if missing else chosen
    if "<|im_start|>" in control:
        return CHATML
    if family in ("llama", "mistral"):
        if tokenizer.vocab_size < LLAMA2_VOCABULARY:
            return CONTINUE
        return MISTRAL if family == "mistral" else LLAMA2
    return PLAIN


def _mistral(tokenizer: Vocabulary) -> Format:
    """Byte-level vocabularies (tekken) put no space before a text."""
    if tokenizer.lead:
        return MISTRAL_V3
    return MISTRAL_V7 if "[SYSTEM_PROMPT]" in tokenizer.control_texts else MISTRAL_TEKKEN


def _chatglm(control: Mapping[str, int], hints: Mapping[str, object]) -> Format:
    if "<sop>" in control and "<|user|>" in control:
        return GLM4
    if "position_encoding_2d" in hints or "<|blank_2|>" in control or "<sop>" in control:
        return CHATGLM1
    return CHATGLM3 if "<|user|>" in control else CHATGLM2


def format_variables(chosen: Format, tokenizer: Vocabulary) -> dict[str, str]:
    """Variables of ``chosen`` which the vocabulary decides (Baichuan's reserved tokens 195 and 196)."""
    if chosen.name != "baichuan":
        return {}
    return {"user_token": tokenizer.token(195) or "", "assistant_token": tokenizer.token(196) or ""}
