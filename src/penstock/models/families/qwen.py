"""Qwen-1 (7B to 72B) from its remote-code checkpoints, the first release's key names included.

``intermediate_size`` is twice the width of the MLP; ``w2`` is the gate. Beyond ``seq_length`` the prompt's length picks
a rotary base (dynamic NTK) and queries are scaled by the logarithm of their position (log-n).
"""

from __future__ import annotations

from penstock.errors import CheckpointError
from penstock.models.architecture import Architecture, Attention, Block, Head, Mlp, Norm, Rope, RopeScaling
from penstock.models.common import qkv
from penstock.models.family import Config, Family
from penstock.models.reading import MAX_CONTEXT, MAX_LAYERS, MAX_VOCAB, Reader
from penstock.models.rope_facts import MIN_THETA
from penstock.models.rules import Rule, rename


def architecture(config: Config) -> Architecture:
    r = Reader(config)
    hidden, heads = r.whole("hidden_size", "n_embd"), r.whole("num_attention_heads", "n_head", high=1 << 14)
    dim = r.whole("kv_channels", default=max(1, hidden // heads), high=1 << 14)
    norm = Norm("rms", r.number("layer_norm_epsilon", default=1e-6, high=1.0))
    trained = r.whole("seq_length", default=8192, low=2, high=MAX_CONTEXT)
    context = r.whole("max_position_embeddings", "n_positions", default=trained, high=MAX_CONTEXT)
    bias = not r.flag("no_bias", default=True)
    attention = Attention(
        heads, heads, dim, dim**-0.5, ropes=(_rope(r, dim, trained),), qkv_bias=True, out_bias=bias,
        log_n=trained if r.flag("use_logn_attn", default=True) else None,
    )  # fmt: skip
    double = r.whole("intermediate_size", "ffn_hidden_size")
    if double % 2:
        raise CheckpointError(f"{r.where}: intermediate_size ({double}) must be even: it counts gate and up")
    block = Block(attention, Mlp(double // 2, "silu", up_bias=bias, down_bias=bias), norm)
    vocab = r.whole("padded_vocab_size", "vocab_size", high=MAX_VOCAB)
    layers, tied = (
        r.whole("num_hidden_layers", "n_layer", high=MAX_LAYERS),
        r.flag("tie_word_embeddings", default=False),
    )
    for name, value in (
        ("scale_attn_weights", True), ("activation", "swiglu"), ("pos_emb", "rotary"), ("n_inner", None),
        ("apply_residual_connection_post_layernorm", False),
    ):  # fmt: skip
        r.only(name, value)
    r.done()
    return Architecture("qwen", vocab, hidden, context, (block,) * layers, norm, head=Head(tied=tied))


def _rope(r: Reader, dim: int, trained: int) -> Rope:
    theta = r.number("rotary_emb_base", default=10000.0, low=MIN_THETA)
    rotated = int(dim * r.number("rotary_pct", default=1.0, low=0.01, high=1.0))
    if rotated < 4 or rotated % 2:
        raise CheckpointError(
            f"{r.where}: rotary embedding of {rotated} elements of a head; it must be even, at least 4"
        )
    scaling = RopeScaling("qwen_ntk", original_length=trained) if r.flag("use_dynamic_ntk", default=True) else None
    return Rope(rotated, theta, scaling=scaling)


def rules(arch: Architecture, config: Config) -> tuple[Rule, ...]:
    at = "[transformer.]h.{i}"
    return (
        rename("[transformer.]wte.weight", "embed.weight"),
        rename(f"{at}.ln_1.weight", "layers.{i}.attn_norm.weight"),
        qkv(f"{at}.attn.c_attn"),
        rename(f"{at}.attn.c_proj.{{p:weight|bias}}", "layers.{i}.attn.o.{p}"),
        rename(f"{at}.ln_2.weight", "layers.{i}.mlp_norm.weight"),
        rename(f"{at}.mlp.w1.{{p:weight|bias}}", "layers.{i}.mlp.up.{p}"),
        rename(f"{at}.mlp.w2.{{p:weight|bias}}", "layers.{i}.mlp.gate.{p}"),
        rename(f"{at}.mlp.c_proj.{{p:weight|bias}}", "layers.{i}.mlp.down.{p}"),
        rename("[transformer.]ln_f.weight", "final_norm.weight"),
        rename("lm_head.weight", "head.weight", tied_to="embed.weight"),
    )


FAMILY = Family("qwen", ("qwen",), architecture, rules, template="chatml", stop_tokens=("<|im_end|>", "<|endoftext|>"))
