"""Gemma 1 and 2: norms times (1 + weight), scaled embeddings, tied head. Gemma 2 adds windows, caps and post norms."""

from __future__ import annotations

import math
from dataclasses import replace

from penstock.models.architecture import Activation, Architecture, Attention, Block, Embedding, Head, Mlp, Norm
from penstock.models.common import LLAMA_RULES, read_ropes, read_sizes, read_windows, rms
from penstock.models.family import Config, Family
from penstock.models.reading import MAX_CONTEXT, Reader
from penstock.models.rules import Rule, rename

POST_NORM_RULES: tuple[Rule, ...] = (
    rename("[model.]layers.{i}.post_attention_layernorm.weight", "layers.{i}.attn_post_norm.weight"),
    rename("[model.]layers.{i}.pre_feedforward_layernorm.weight", "layers.{i}.mlp_norm.weight"),
    rename("[model.]layers.{i}.post_feedforward_layernorm.weight", "layers.{i}.mlp_post_norm.weight"),
)


def architecture(config: Config) -> Architecture:
    r = Reader(config)
    second = config.get("model_type") == "gemma2"
    s = read_sizes(r, context=8192, kv_heads=4 if second else None, head_dim=256)
    norm = gemma_norm(r)
    bias = r.flag("attention_bias", default=False)
    attention = Attention(
        s.heads, s.kv_heads, s.head_dim, query_scale(r) if second else s.head_dim**-0.5, ropes=read_ropes(r, s),
        softcap=read_cap(r, "attn_logit_softcapping", 50.0) if second else None, qkv_bias=bias, out_bias=bias,
    )  # fmt: skip
    windows: list[int | None] = [None] * s.layers
    if second:
        kinds = ["full_attention" if i % 2 else "sliding_attention" for i in range(s.layers)]
        windows = read_windows(r, s.layers, r.whole("sliding_window", default=4096, high=MAX_CONTEXT), kinds)
    mlp = Mlp(r.whole("intermediate_size"), gemma_activation(r))
    blocks = tuple(Block(replace(attention, window=w), mlp, norm, post_norms=second) for w in windows)
    head = gemma_head(r, 30.0 if second else None)
    r.done()
    return Architecture(
        "gemma2" if second else "gemma",
        s.vocab,
        s.hidden,
        s.context,
        blocks,
        norm,
        Embedding(scale=s.hidden**0.5),
        head,
    )


def gemma_norm(r: Reader) -> Norm:
    r.only("use_bidirectional_attention", False)
    r.read.add("cache_implementation")
    return replace(rms(r), plus_one=True)


def gemma_activation(r: Reader) -> Activation:
    """``hidden_activation``, else ``hidden_act``; a plain "gelu" in the latter was always meant as the tanh form."""
    name = r.activation("hidden_activation", "hidden_act", default="gelu_tanh")
    return "gelu_tanh" if r.config.get("hidden_activation") is None and name == "gelu" else name


def gemma_head(r: Reader, cap: float | None) -> Head:
    tied = r.flag("tie_word_embeddings", default=True)
    return Head(tied=tied, softcap=read_cap(r, "final_logit_softcapping", cap))


def read_cap(r: Reader, name: str, default: float | None) -> float | None:
    """A cap; null is none, absent the family's default."""
    return r.number(name, default=0.0 if name in r.config else default or 0.0) or None


def query_scale(r: Reader) -> float:
    return 1 / math.sqrt(r.number("query_pre_attn_scalar", default=256.0, low=1e-6))


def rules(arch: Architecture, config: Config) -> tuple[Rule, ...]:
    return (*POST_NORM_RULES, *LLAMA_RULES) if arch.blocks[0].post_norms else LLAMA_RULES


FAMILY = Family("gemma", ("gemma", "gemma2"), architecture, rules, template="gemma", stop_tokens=("<end_of_turn>",))
