"""GPT-2: learned positions, LayerNorm, biases everywhere, linears stored [in, out]."""

from __future__ import annotations

from penstock.errors import CheckpointError
from penstock.models.architecture import Architecture, Attention, Block, Embedding, Head, Mlp
from penstock.models.common import layer_norm
from penstock.models.family import Config, Family
from penstock.models.reading import MAX_CONTEXT, MAX_LAYERS, MAX_VOCAB, Reader
from penstock.models.rules import Rule, Transpose, ignore, rename, split


def architecture(config: Config) -> Architecture:
    r = Reader(config)
    hidden, heads = r.whole("n_embd", "hidden_size"), r.whole("n_head", "num_attention_heads", high=1 << 14)
    if hidden % heads:
        raise CheckpointError(f"{r.where}: n_embd ({hidden}) must be a multiple of n_head ({heads})")
    dim, layers = hidden // heads, r.whole("n_layer", "num_hidden_layers", high=MAX_LAYERS)
    context = r.whole("n_positions", "n_ctx", "max_position_embeddings", default=1024, high=MAX_CONTEXT)
    norm = layer_norm(r)
    scale = dim**-0.5 if r.flag("scale_attn_weights", default=True) else 1.0
    by_layer = r.flag("scale_attn_by_inverse_layer_idx", default=False)
    r.read.add("reorder_and_upcast_attn")  # the same result in another order
    width = r.whole("n_inner", default=4 * hidden)
    mlp = Mlp(width, r.activation("activation_function", default="gelu_new"), gated=False, up_bias=True, down_bias=True)
    blocks = tuple(
        Block(
            Attention(heads, heads, dim, scale / (i + 1) if by_layer else scale, qkv_bias=True, out_bias=True),
            mlp,
            norm,
        )
        for i in range(layers)
    )
    vocab, head = r.whole("vocab_size", high=MAX_VOCAB), Head(tied=r.flag("tie_word_embeddings", default=True))
    r.done()
    return Architecture("gpt2", vocab, hidden, context, blocks, norm, Embedding(positions=context), head)


def rules(arch: Architecture, config: Config) -> tuple[Rule, ...]:
    at = "[transformer.]h.{i}"
    return (
        rename("[transformer.]wte.weight", "embed.weight"),
        rename("[transformer.]wpe.weight", "positions.weight"),
        rename(f"{at}.ln_1.{{p:weight|bias}}", "layers.{i}.attn_norm.{p}"),
        split(
            f"{at}.attn.c_attn.{{p:weight|bias}}",
            ("layers.{i}.attn.q.{p}", "layers.{i}.attn.k.{p}", "layers.{i}.attn.v.{p}"), Transpose(),
        ),
        rename(f"{at}.attn.c_proj.{{p:weight|bias}}", "layers.{i}.attn.o.{p}", Transpose()),
        rename(f"{at}.ln_2.{{p:weight|bias}}", "layers.{i}.mlp_norm.{p}"),
        rename(f"{at}.mlp.c_fc.{{p:weight|bias}}", "layers.{i}.mlp.up.{p}", Transpose()),
        rename(f"{at}.mlp.c_proj.{{p:weight|bias}}", "layers.{i}.mlp.down.{p}", Transpose()),
        rename("[transformer.]ln_f.{p:weight|bias}", "final_norm.{p}"),
        rename("lm_head.weight", "head.weight", tied_to="embed.weight"),
        ignore(f"{at}.attn.bias"),
    )  # fmt: skip


FAMILY = Family("gpt2", ("gpt2",), architecture, rules)
