"""BLOOM and BLOOMZ: ALiBi, a norm after the embedding, q, k, v interleaved by head."""

from __future__ import annotations

from penstock.errors import CheckpointError
from penstock.models.architecture import Architecture, Attention, Block, Embedding, Head, Mlp
from penstock.models.common import alibi_slopes, layer_norm, qkv
from penstock.models.family import Config, Family
from penstock.models.reading import MAX_CONTEXT, MAX_LAYERS, MAX_VOCAB, Reader
from penstock.models.rules import Rule, rename


def architecture(config: Config) -> Architecture:
    r = Reader(config)
    hidden, heads = r.whole("n_embed", "hidden_size"), r.whole("n_head", "num_attention_heads", high=1 << 14)
    if hidden % heads:
        raise CheckpointError(f"{r.where}: hidden_size ({hidden}) must be a multiple of n_head ({heads})")
    dim, layers = hidden // heads, r.whole("n_layer", "num_hidden_layers", high=MAX_LAYERS)
    norm = layer_norm(r)
    attention = Attention(heads, heads, dim, dim**-0.5, qkv_bias=True, out_bias=True, alibi=alibi_slopes(heads))
    mlp = Mlp(r.whole("n_inner", default=4 * hidden), "gelu_tanh", gated=False, up_bias=True, down_bias=True)
    scale = 1.0 if r.flag("apply_residual_connection_post_layernorm", default=False) else None
    block = Block(attention, mlp, norm, residual_norm_scale=scale)
    context = r.whole("seq_length", "max_position_embeddings", default=2048, high=MAX_CONTEXT)
    vocab, head = r.whole("vocab_size", high=MAX_VOCAB), Head(tied=r.flag("tie_word_embeddings", default=True))
    r.read.update(("offset_alibi", "skip_bias_add", "skip_bias_add_qkv"))  # of Megatron, not of the result
    r.done()
    return Architecture("bloom", vocab, hidden, context, (block,) * layers, norm, Embedding(norm=norm), head)


def rules(arch: Architecture, config: Config) -> tuple[Rule, ...]:
    at = "[transformer.]h.{i}"
    return (
        rename("[transformer.]word_embeddings.weight", "embed.weight"),
        rename("[transformer.]word_embeddings_layernorm.{p:weight|bias}", "embed_norm.{p}"),
        rename(f"{at}.input_layernorm.{{p:weight|bias}}", "layers.{i}.attn_norm.{p}"),
        qkv(f"{at}.self_attention.query_key_value", groups=arch.blocks[0].attention.heads),
        rename(f"{at}.self_attention.dense.{{p:weight|bias}}", "layers.{i}.attn.o.{p}"),
        rename(f"{at}.post_attention_layernorm.{{p:weight|bias}}", "layers.{i}.mlp_norm.{p}"),
        rename(f"{at}.mlp.dense_h_to_4h.{{p:weight|bias}}", "layers.{i}.mlp.up.{p}"),
        rename(f"{at}.mlp.dense_4h_to_h.{{p:weight|bias}}", "layers.{i}.mlp.down.{p}"),
        rename("[transformer.]ln_f.{p:weight|bias}", "final_norm.{p}"),
        rename("lm_head.weight", "head.weight", tied_to="embed.weight"),
    )


FAMILY = Family("bloom", ("bloom",), architecture, rules)
