"""Phi-3, Phi-3.5 and Phi-4-mini: Llama with fused q, k, v and gate, up; LongRoPE in the 128k models."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.models.architecture import Architecture, Attention, Block, Head, Mlp
from penstock.models.common import LLAMA_RULES, gate_up, qkv, read_ropes, read_sizes, rms
from penstock.models.family import Config, Family
from penstock.models.reading import MAX_CONTEXT, Reader
from penstock.models.rules import Rule


def architecture(config: Config) -> Architecture:
    r = Reader(_longrope(config))
    s = read_sizes(r, context=4096)
    norm = rms(r, 1e-5)
    window = r.whole("sliding_window", default=0, low=0, high=MAX_CONTEXT) or None
    attention = Attention(s.heads, s.kv_heads, s.head_dim, s.head_dim**-0.5, ropes=read_ropes(r, s), window=window)
    mlp = Mlp(r.whole("intermediate_size"), r.activation("hidden_act"))
    head = Head(tied=r.flag("tie_word_embeddings", default=False))
    r.done()
    scaling = attention.ropes[0].scaling
    return Architecture(
        "phi3", s.vocab, s.hidden, s.context, (Block(attention, mlp, norm),) * s.layers, norm, head=head,
        recompute_past=scaling.original_length if scaling is not None and scaling.kind == "longrope" else None,
    )  # fmt: skip


def _longrope(config: Config) -> Config:
    """The first checkpoints call LongRoPE ``su`` or ``yarn``; the original length is 4096 unless given."""
    config = {"original_max_position_embeddings": 4096, **config}
    for name in ("rope_scaling", "rope_parameters"):
        given = config.get(name)
        if isinstance(given, Mapping) and given.get("rope_type", given.get("type")) == "yarn":
            config[name] = {**given, "rope_type": "longrope"}
    return config


def rules(arch: Architecture, config: Config) -> tuple[Rule, ...]:
    return (
        *LLAMA_RULES,
        qkv("[model.]layers.{i}.self_attn.qkv_proj"),
        gate_up("[model.]layers.{i}.mlp.gate_up_proj"),
    )


FAMILY = Family("phi3", ("phi3",), architecture, rules, template="phi3", stop_tokens=("<|end|>", "<|endoftext|>"))
