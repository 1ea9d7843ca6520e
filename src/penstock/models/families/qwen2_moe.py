"""Qwen 1.5 and 2 with experts: a shared expert behind a sigmoid gate; some layers may be dense."""

from __future__ import annotations

from dataclasses import replace

from penstock.errors import CheckpointError
from penstock.models.architecture import Architecture, Attention, Block, Head, Mlp, Moe
from penstock.models.common import LLAMA_ATTENTION, LLAMA_MLP, Sizes, read_ropes, read_sizes, read_windows, rms
from penstock.models.family import Config, Family
from penstock.models.reading import MAX_CONTEXT, MAX_LAYERS, Reader
from penstock.models.rules import Rule, rename, stack

EXPERT_RULES: tuple[Rule, ...] = (
    rename("[model.]layers.{i}.mlp.gate.weight", "layers.{i}.moe.router.weight"),
    stack("[model.]layers.{i}.mlp.experts.{e}.{x:gate|up|down}_proj.weight", "layers.{i}.moe.{x}.weight", "e"),
)


def architecture(config: Config) -> Architecture:
    r = Reader(config)
    s = read_sizes(r, context=32768, kv_heads=None if "num_key_value_heads" in config else 16)
    norm = rms(r)
    attention = Attention(
        s.heads, s.kv_heads, s.head_dim, s.head_dim**-0.5, ropes=read_ropes(r, s),
        qkv_bias=r.flag("qkv_bias", default=True),
    )  # fmt: skip
    shared = Mlp(r.whole("shared_expert_intermediate_size", default=5632), r.activation("hidden_act"))
    moe = replace(read_moe(r, experts=60, top_k=4, width=1408), shared=shared, shared_gate=True)
    blocks = tuple(
        Block(replace(attention, window=window), mlp, norm)
        for window, mlp in zip(_windows(r, s), sparse_or_dense(r, s, moe), strict=True)
    )
    head = Head(tied=r.flag("tie_word_embeddings", default=False))
    r.done()
    return Architecture("qwen2_moe", s.vocab, s.hidden, s.context, blocks, norm, head=head)


def read_moe(r: Reader, experts: int, top_k: int, width: int) -> Moe:
    """Experts under Qwen's names, with the family's defaults."""
    experts = r.whole("num_experts", "num_local_experts", default=experts, high=4096)
    return Moe(
        experts, r.whole("num_experts_per_tok", default=top_k, high=experts),
        r.whole("moe_intermediate_size", default=width), r.activation("hidden_act"),
        renormalise=r.flag("norm_topk_prob", default=False),
    )  # fmt: skip


def sparse_or_dense(r: Reader, s: Sizes, moe: Moe) -> list[Mlp | Moe]:
    """Every ``decoder_sparse_step``-th layer has experts, but for those in ``mlp_only_layers``."""
    dense = Mlp(r.whole("intermediate_size"), r.activation("hidden_act"))
    step = r.whole("decoder_sparse_step", default=1, high=MAX_LAYERS)
    only = r.get("mlp_only_layers", default=[])
    if not isinstance(only, list):
        raise CheckpointError(f"{r.where}: mlp_only_layers must be a list of layers, found {str(only)[:80]!r}")
    return [dense if i in only or (i + 1) % step else moe for i in range(s.layers)]


def _windows(r: Reader, s: Sizes) -> list[int | None]:
    """Every other layer below ``max_window_layers`` has the window, if ``use_sliding_window``."""
    window = r.whole("sliding_window", default=4096, low=0, high=MAX_CONTEXT) or None
    below = r.whole("max_window_layers", default=28, low=0, high=MAX_LAYERS)
    if not r.flag("use_sliding_window", default=False):
        window = None
    kinds = ["sliding_attention" if window and i < below and i % 2 == 0 else "full_attention" for i in range(s.layers)]
    return read_windows(r, s.layers, window, kinds)


def rules(arch: Architecture, config: Config) -> tuple[Rule, ...]:
    at = "[model.]layers.{i}.mlp"
    return (
        *LLAMA_ATTENTION, *LLAMA_MLP, *EXPERT_RULES,
        rename(f"{at}.shared_expert.{{x:gate|up|down}}_proj.weight", "layers.{i}.moe.shared.{x}.weight"),
        rename(f"{at}.shared_expert_gate.weight", "layers.{i}.moe.shared_gate.weight"),
    )  # fmt: skip


FAMILY = Family("qwen2_moe", ("qwen2_moe",), architecture, rules, "chatml", ("<|im_end|>", "<|endoftext|>"))
