"""Qwen 3 with experts: Qwen 3's attention, no shared expert."""

from __future__ import annotations

from penstock.models.architecture import Architecture, Attention, Block, Head
from penstock.models.common import LLAMA_ATTENTION, LLAMA_MLP, read_ropes, read_sizes, rms
from penstock.models.families.qwen2_moe import EXPERT_RULES, read_moe, sparse_or_dense
from penstock.models.family import Config, Family
from penstock.models.reading import MAX_CONTEXT, Reader
from penstock.models.rules import Rule


def architecture(config: Config) -> Architecture:
    r = Reader(config)
    s = read_sizes(r, context=32768, kv_heads=4)
    norm = rms(r)
    bias = r.flag("attention_bias", default=False)
    window = r.whole("sliding_window", default=4096, low=0, high=MAX_CONTEXT) or None
    if not r.flag("use_sliding_window", default=False):
        window = None
    r.read.update(("max_window_layers", "layer_types"))  # the published code has one window for all layers
    attention = Attention(
        s.heads, s.kv_heads, s.head_dim, s.head_dim**-0.5, ropes=read_ropes(r, s), qkv_bias=bias, out_bias=bias,
        qk_norm=norm, window=window,
    )  # fmt: skip
    moe = read_moe(r, experts=128, top_k=8, width=768)
    blocks = tuple(Block(attention, mlp, norm) for mlp in sparse_or_dense(r, s, moe))
    head = Head(tied=r.flag("tie_word_embeddings", default=False))
    r.done()
    return Architecture("qwen3_moe", s.vocab, s.hidden, s.context, blocks, norm, head=head)


def rules(arch: Architecture, config: Config) -> tuple[Rule, ...]:
    return (*LLAMA_ATTENTION, *LLAMA_MLP, *EXPERT_RULES)


FAMILY = Family("qwen3_moe", ("qwen3_moe",), architecture, rules, "chatml", ("<|im_end|>", "<|endoftext|>"))
