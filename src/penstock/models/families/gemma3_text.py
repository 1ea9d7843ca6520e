"""Gemma 3, text: Gemma 2 with q and k norms instead of caps; windowed layers have a rotary base of their own."""

from __future__ import annotations

from dataclasses import replace

from penstock.models.architecture import Architecture, Attention, Block, Embedding, Mlp, Rope
from penstock.models.common import LLAMA_RULES, Sizes, read_sizes, read_windows
from penstock.models.families.gemma import (
    POST_NORM_RULES,
    gemma_activation,
    gemma_head,
    gemma_norm,
    query_scale,
)
from penstock.models.family import Config, Family
from penstock.models.reading import MAX_CONTEXT, MAX_LAYERS, Reader
from penstock.models.rope_facts import MIN_THETA, read_rope
from penstock.models.rules import Rule


def architecture(config: Config) -> Architecture:
    r = Reader(config)
    s = read_sizes(r, context=131072, kv_heads=4, head_dim=256)
    norm = gemma_norm(r)
    bias = r.flag("attention_bias", default=False)
    r.read.add("attn_logit_softcapping")  # the published code reads it and never applies it
    attention = Attention(s.heads, s.kv_heads, s.head_dim, query_scale(r), qk_norm=norm, qkv_bias=bias, out_bias=bias)
    everywhere, local = _ropes(r, s)
    pattern = r.whole("sliding_window_pattern", "_sliding_window_pattern", default=6, high=MAX_LAYERS)
    kinds = ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(s.layers)]
    windows = read_windows(r, s.layers, r.whole("sliding_window", default=4096, high=MAX_CONTEXT), kinds)
    mlp = Mlp(r.whole("intermediate_size"), gemma_activation(r))
    blocks = tuple(
        Block(replace(attention, window=w, ropes=(local if w else everywhere,)), mlp, norm, post_norms=True)
        for w in windows
    )
    head = gemma_head(r, None)
    r.done()
    return Architecture("gemma3_text", s.vocab, s.hidden, s.context, blocks, norm, Embedding(scale=s.hidden**0.5), head)


def _ropes(r: Reader, s: Sizes) -> tuple[Rope, Rope]:
    """Of full and of windowed layers. In the old form ``rope_scaling`` is of the full ones only."""
    local = r.number("rope_local_base_freq", default=10000.0, low=MIN_THETA)
    theta, dim, scaling = read_rope(r, s.head_dim, s.context, 1e6, layer_type="full_attention")
    parameters = r.config.get("rope_parameters") or {}
    if "sliding_attention" in parameters:
        local, _, local_scaling = read_rope(r, s.head_dim, s.context, local, layer_type="sliding_attention")
        return Rope(dim, theta, scaling=scaling), Rope(dim, local, scaling=local_scaling)
    return Rope(dim, theta, scaling=scaling), Rope(dim, local)


def rules(arch: Architecture, config: Config) -> tuple[Rule, ...]:
    return (*POST_NORM_RULES, *LLAMA_RULES)


FAMILY = Family("gemma3_text", ("gemma3_text",), architecture, rules, template="gemma", stop_tokens=("<end_of_turn>",))
