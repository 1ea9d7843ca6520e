"""GPT-NeoX-20B, Pythia, Dolly: parallel residual with two norms, rotary on a part of each head."""

from __future__ import annotations

from penstock.models.architecture import Architecture, Attention, Block, Head, Mlp, Rope
from penstock.models.common import layer_norm, qkv, read_sizes
from penstock.models.family import Config, Family
from penstock.models.reading import Reader
from penstock.models.rope_facts import MIN_THETA, read_rope
from penstock.models.rules import Rule, ignore, rename


def architecture(config: Config) -> Architecture:
    r = Reader(config)
    s = read_sizes(r, context=2048)
    norm = layer_norm(r, "layer_norm_eps")
    theta, dim, scaling = read_rope(
        r, s.head_dim, s.context, r.number("rotary_emb_base", default=10000.0, low=MIN_THETA),
        r.number("rotary_pct", default=0.25, high=1.0),
    )  # fmt: skip
    bias = r.flag("attention_bias", default=True)
    attention = Attention(
        s.heads, s.kv_heads, s.head_dim, s.head_dim**-0.5, ropes=(Rope(dim, theta, scaling=scaling),), qkv_bias=bias,
        out_bias=bias,
    )  # fmt: skip
    mlp = Mlp(
        r.whole("intermediate_size"),
        r.activation("hidden_act", default="gelu"),
        gated=False,
        up_bias=True,
        down_bias=True,
    )
    parallel = r.flag("use_parallel_residual", default=True)
    block = Block(attention, mlp, norm, residual="parallel" if parallel else "sequential")
    head = Head(tied=r.flag("tie_word_embeddings", default=False))
    r.done()
    return Architecture("gpt_neox", s.vocab, s.hidden, s.context, (block,) * s.layers, norm, head=head)


def rules(arch: Architecture, config: Config) -> tuple[Rule, ...]:
    at = "[gpt_neox.]layers.{i}"
    return (
        rename("[gpt_neox.]embed_in.weight", "embed.weight"),
        rename(f"{at}.input_layernorm.{{p:weight|bias}}", "layers.{i}.attn_norm.{p}"),
        qkv(f"{at}.attention.query_key_value", groups=arch.blocks[0].attention.heads),
        rename(f"{at}.attention.dense.{{p:weight|bias}}", "layers.{i}.attn.o.{p}"),
        rename(f"{at}.post_attention_layernorm.{{p:weight|bias}}", "layers.{i}.mlp_norm.{p}"),
        rename(f"{at}.mlp.dense_h_to_4h.{{p:weight|bias}}", "layers.{i}.mlp.up.{p}"),
        rename(f"{at}.mlp.dense_4h_to_h.{{p:weight|bias}}", "layers.{i}.mlp.down.{p}"),
        rename("[gpt_neox.]final_layer_norm.{p:weight|bias}", "final_norm.{p}"),
        rename("embed_out.weight", "head.weight", tied_to="embed.weight"),
        ignore(f"{at}.attention.bias"),
    )


FAMILY = Family("gpt_neox", ("gpt_neox",), architecture, rules)
