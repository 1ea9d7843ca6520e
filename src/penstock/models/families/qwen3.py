"""Qwen 3 (dense): q and k are normalised per head before they are rotated; no biases."""

from __future__ import annotations

from dataclasses import replace

from penstock.models.architecture import Architecture, Attention, Block, Head, Mlp
from penstock.models.common import LLAMA_RULES, read_ropes, read_sizes, rms
from penstock.models.families.qwen2 import windows
from penstock.models.family import Config, Family
from penstock.models.reading import Reader
from penstock.models.rules import Rule


def architecture(config: Config) -> Architecture:
    r = Reader(config)
    s = read_sizes(r, context=32768, head_dim=128)
    norm = rms(r)
    bias = r.flag("attention_bias", default=False)
    attention = Attention(
        s.heads, s.kv_heads, s.head_dim, s.head_dim**-0.5, ropes=read_ropes(r, s), qkv_bias=bias, out_bias=bias,
        qk_norm=norm,
    )  # fmt: skip
    mlp = Mlp(r.whole("intermediate_size"), r.activation("hidden_act"))
    blocks = tuple(Block(replace(attention, window=w), mlp, norm) for w in windows(r, s))
    head = Head(tied=r.flag("tie_word_embeddings", default=False))
    r.done()
    return Architecture("qwen3", s.vocab, s.hidden, s.context, blocks, norm, head=head)


def rules(arch: Architecture, config: Config) -> tuple[Rule, ...]:
    return LLAMA_RULES


FAMILY = Family(
    "qwen3", ("qwen3",), architecture, rules, template="chatml", stop_tokens=("<|im_end|>", "<|endoftext|>")
)
