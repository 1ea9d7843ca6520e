"""Mixtral 8x7B and 8x22B: Mistral with sparse experts, top-k probabilities divided by their sum."""

from __future__ import annotations

from penstock.models.architecture import Architecture, Attention, Block, Head, Moe
from penstock.models.common import LLAMA_ATTENTION, read_ropes, read_sizes, rms
from penstock.models.families.qwen2_moe import EXPERT_RULES
from penstock.models.family import Config, Family
from penstock.models.reading import MAX_CONTEXT, Reader
from penstock.models.rules import Rule, rename, stack


def architecture(config: Config) -> Architecture:
    r = Reader(config)
    s = read_sizes(r, context=131072, kv_heads=8)
    norm = rms(r, 1e-5)
    window = r.whole("sliding_window", default=0, low=0, high=MAX_CONTEXT) or None
    attention = Attention(s.heads, s.kv_heads, s.head_dim, s.head_dim**-0.5, ropes=read_ropes(r, s), window=window)
    experts = r.whole("num_local_experts", "num_experts", default=8, high=4096)
    moe = Moe(
        experts, r.whole("num_experts_per_tok", default=2, high=experts), r.whole("intermediate_size"),
        r.activation("hidden_act"), renormalise=True,
    )  # fmt: skip
    head = Head(tied=r.flag("tie_word_embeddings", default=False))
    r.done()
    return Architecture(
        "mixtral", s.vocab, s.hidden, s.context, (Block(attention, moe, norm),) * s.layers, norm, head=head
    )


def rules(arch: Architecture, config: Config) -> tuple[Rule, ...]:
    at = "[model.]layers.{i}.block_sparse_moe"
    return (
        *LLAMA_ATTENTION,
        rename(f"{at}.gate.weight", "layers.{i}.moe.router.weight"),
        stack(f"{at}.experts.{{e}}.w1.weight", "layers.{i}.moe.gate.weight", "e"),
        stack(f"{at}.experts.{{e}}.w3.weight", "layers.{i}.moe.up.weight", "e"),
        stack(f"{at}.experts.{{e}}.w2.weight", "layers.{i}.moe.down.weight", "e"),
        *EXPERT_RULES,  # as transformers 5 calls them, and so adapters made with it
    )


FAMILY = Family("mixtral", ("mixtral",), architecture, rules, template="mistral")
