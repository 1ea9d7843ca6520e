"""Llama 1, 2, 3.x and the many models of the same network (Yi, DeepSeek LLM, TinyLlama …)."""

from __future__ import annotations

from penstock.models.architecture import Architecture, Attention, Block, Head, Mlp
from penstock.models.common import LLAMA_RULES, read_ropes, read_sizes, rms
from penstock.models.family import Config, Family
from penstock.models.reading import Reader
from penstock.models.rules import Rule


def architecture(config: Config) -> Architecture:
    r = Reader(config)
    s = read_sizes(r, context=2048)
    bias = r.flag("attention_bias", default=False)
    mlp_bias = r.flag("mlp_bias", default=False)
    norm = rms(r)
    attention = Attention(
        s.heads, s.kv_heads, s.head_dim, s.head_dim**-0.5, ropes=read_ropes(r, s), qkv_bias=bias, out_bias=bias
    )
    mlp = Mlp(r.whole("intermediate_size"), r.activation("hidden_act"), up_bias=mlp_bias, down_bias=mlp_bias)
    head = Head(tied=r.flag("tie_word_embeddings", default=False))
    r.done()
    return Architecture(
        "llama", s.vocab, s.hidden, s.context, (Block(attention, mlp, norm),) * s.layers, norm, head=head
    )


def rules(arch: Architecture, config: Config) -> tuple[Rule, ...]:
    return LLAMA_RULES


FAMILY = Family("llama", ("llama",), architecture, rules, template="llama2", stop_tokens=("<|eot_id|>", "<|eom_id|>"))
