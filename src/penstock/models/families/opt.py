"""OPT, of the GPT-3 kind: learned positions from row 2 on, ReLU; the 350m normalises after each addition."""

from __future__ import annotations

from penstock.models.architecture import Architecture, Attention, Block, Embedding, Head, Mlp, Norm
from penstock.models.common import read_sizes
from penstock.models.family import Config, Family
from penstock.models.reading import Reader
from penstock.models.rules import Rule, rename


def architecture(config: Config) -> Architecture:
    r = Reader(config)
    s = read_sizes(r, context=2048)
    norm = Norm("layer", 1e-5, bias=True)
    bias = r.flag("enable_bias", default=True)
    before = r.flag("do_layer_norm_before", default=True)
    attention = Attention(s.heads, s.heads, s.head_dim, s.head_dim**-0.5, qkv_bias=bias, out_bias=bias)
    mlp = Mlp(
        r.whole("ffn_dim"),
        r.activation("activation_function", default="relu"),
        gated=False,
        up_bias=bias,
        down_bias=bias,
    )
    block = Block(attention, mlp, norm, norm_position="pre" if before else "post")
    removed = r.flag("_remove_final_layer_norm", default=False)
    final = norm if before and not removed else None
    embedding = Embedding(
        positions=s.context, position_offset=2, width=r.whole("word_embed_proj_dim", default=s.hidden)
    )
    head = Head(tied=r.flag("tie_word_embeddings", default=True))
    r.only("layer_norm_elementwise_affine", True)
    r.done()
    return Architecture("opt", s.vocab, s.hidden, s.context, (block,) * s.layers, final, embedding, head)


def rules(arch: Architecture, config: Config) -> tuple[Rule, ...]:
    at = "[model.]decoder.layers.{i}"
    return (
        rename("[model.]decoder.embed_tokens.weight", "embed.weight"),
        rename("[model.]decoder.embed_positions.weight", "positions.weight"),
        rename("[model.]decoder.project_in.weight", "embed_proj.weight"),
        rename("[model.]decoder.project_out.weight", "head_proj.weight"),
        rename(f"{at}.self_attn_layer_norm.{{p:weight|bias}}", "layers.{i}.attn_norm.{p}"),
        rename(f"{at}.self_attn.{{x:q|k|v}}_proj.{{p:weight|bias}}", "layers.{i}.attn.{x}.{p}"),
        rename(f"{at}.self_attn.out_proj.{{p:weight|bias}}", "layers.{i}.attn.o.{p}"),
        rename(f"{at}.final_layer_norm.{{p:weight|bias}}", "layers.{i}.mlp_norm.{p}"),
        rename(f"{at}.fc1.{{p:weight|bias}}", "layers.{i}.mlp.up.{p}"),
        rename(f"{at}.fc2.{{p:weight|bias}}", "layers.{i}.mlp.down.{p}"),
        rename("[model.]decoder.final_layer_norm.{p:weight|bias}", "final_norm.{p}"),
        rename("lm_head.weight", "head.weight", tied_to="embed.weight"),
    )


FAMILY = Family("opt", ("opt",), architecture, rules)
