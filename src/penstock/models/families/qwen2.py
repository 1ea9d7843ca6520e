"""Qwen 1.5, 2 and 2.5: Llama with biased q, k, v and a window in the upper layers of some."""

from __future__ import annotations

from dataclasses import replace

from penstock.models.architecture import Architecture, Attention, Block, Head, Mlp
from penstock.models.common import LLAMA_RULES, Sizes, read_ropes, read_sizes, read_windows, rms
from penstock.models.family import Config, Family
from penstock.models.reading import MAX_CONTEXT, MAX_LAYERS, Reader
from penstock.models.rules import Rule


def architecture(config: Config) -> Architecture:
    r = Reader(config)
    s = read_sizes(r, context=32768)
    norm = rms(r)
    attention = Attention(s.heads, s.kv_heads, s.head_dim, s.head_dim**-0.5, ropes=read_ropes(r, s), qkv_bias=True)
    mlp = Mlp(r.whole("intermediate_size"), r.activation("hidden_act"))
    blocks = tuple(Block(replace(attention, window=w), mlp, norm) for w in windows(r, s))
    head = Head(tied=r.flag("tie_word_embeddings", default=False))
    r.done()
    return Architecture("qwen2", s.vocab, s.hidden, s.context, blocks, norm, head=head)


def windows(r: Reader, s: Sizes) -> list[int | None]:
    """Layers from ``max_window_layers`` up have the window, if ``use_sliding_window``."""
    window: int | None = r.whole("sliding_window", default=4096, high=MAX_CONTEXT)
    first = r.whole("max_window_layers", default=28, low=0, high=MAX_LAYERS)
    if not r.flag("use_sliding_window", default=False) or r.config.get("sliding_window", 4096) is None:
        window = None
    kinds = ["sliding_attention" if window and i >= first else "full_attention" for i in range(s.layers)]
    return read_windows(r, s.layers, window, kinds)


def rules(arch: Architecture, config: Config) -> tuple[Rule, ...]:
    return LLAMA_RULES


FAMILY = Family(
    "qwen2", ("qwen2",), architecture, rules, template="chatml", stop_tokens=("<|im_end|>", "<|endoftext|>")
)
