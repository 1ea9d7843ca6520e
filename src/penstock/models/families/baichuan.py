"""Baichuan 1 and 2, 7B (rotary) and 13B (ALiBi): Llama with q, k, v in one tensor.

A 13B configuration has no ``max_position_embeddings``. Version 2 divides the rows of its output projection by their
lengths; the vocabulary tells it (125696, where version 1 has 64000), or for other sizes the tokenizer's class.
"""

from __future__ import annotations

from typing import Any

from penstock.models.architecture import Architecture, Attention, Block, Head, Mlp, Rope
from penstock.models.common import LLAMA_RULES, alibi_slopes, qkv, read_sizes, rms
from penstock.models.family import Config, Family
from penstock.models.reading import MAX_CONTEXT, Reader
from penstock.models.rope_facts import read_rope
from penstock.models.rules import Rule, UnitRows, rename

VERSION = {64000: 1, 125696: 2}


def architecture(config: Config) -> Architecture:
    r = Reader(config)
    s = read_sizes(r, context=4096)
    norm = rms(r)
    length = r.whole("model_max_length", "max_position_embeddings", default=4096, high=MAX_CONTEXT)
    how: dict[str, Any] = {"alibi": alibi_slopes(s.heads)}
    if config.get("max_position_embeddings") is not None:
        theta, dim, scaling = read_rope(r, s.head_dim, s.context)
        how = {"ropes": (Rope(dim, theta, scaling=scaling),)}
        length = s.context
    attention = Attention(s.heads, s.kv_heads, s.head_dim, s.head_dim**-0.5, **how)
    mlp = Mlp(r.whole("intermediate_size"), r.activation("hidden_act"))
    head = Head(tied=r.flag("tie_word_embeddings", default=False), normalised=_second(config))
    r.done()
    return Architecture(
        "baichuan", s.vocab, s.hidden, length, (Block(attention, mlp, norm),) * s.layers, norm, head=head
    )


def _second(config: Config) -> bool:
    known = VERSION.get(config["vocab_size"])
    return known == 2 if known else config.get("tokenizer_class") == "BaichuanTokenizer"


def rules(arch: Architecture, config: Config) -> tuple[Rule, ...]:
    head = (rename("lm_head.weight", "head.weight", UnitRows()),) if arch.head.normalised else ()
    return (*head, *LLAMA_RULES, qkv("[model.]layers.{i}.self_attn.W_pack"))


FAMILY = Family("baichuan", ("baichuan",), architecture, rules, template="baichuan")
