"""Mistral 7B and its successors of the same network (v0.1 to v0.3, Nemo, Small): Llama with a sliding window."""

from __future__ import annotations

from penstock.models.architecture import Architecture, Attention, Block, Head, Mlp
from penstock.models.common import LLAMA_RULES, read_ropes, read_sizes, rms
from penstock.models.family import Config, Family
from penstock.models.reading import MAX_CONTEXT, Reader
from penstock.models.rules import Rule


def architecture(config: Config) -> Architecture:
    r = Reader(config)
    s = read_sizes(r, context=131072, kv_heads=None if "num_key_value_heads" in config else 8)
    norm = rms(r)
    attention = Attention(
        s.heads, s.kv_heads, s.head_dim, s.head_dim**-0.5, ropes=read_ropes(r, s), window=read_window(r)
    )
    mlp = Mlp(r.whole("intermediate_size"), r.activation("hidden_act"))
    head = Head(tied=r.flag("tie_word_embeddings", default=False))
    r.done()
    return Architecture(
        "mistral", s.vocab, s.hidden, s.context, (Block(attention, mlp, norm),) * s.layers, norm, head=head
    )


def read_window(r: Reader) -> int | None:
    """``sliding_window``: null is none, but absent is 4096, as in transformers."""
    if "sliding_window" in r.config and r.config["sliding_window"] is None:
        r.read.add("sliding_window")
        return None
    return r.whole("sliding_window", default=4096, high=MAX_CONTEXT)


def rules(arch: Architecture, config: Config) -> tuple[Rule, ...]:
    return LLAMA_RULES


FAMILY = Family("mistral", ("mistral",), architecture, rules, template="mistral")
