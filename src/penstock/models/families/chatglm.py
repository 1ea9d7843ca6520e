"""ChatGLM-6B (1), ChatGLM 2 and 3, and GLM-4-9B in its first form; all call themselves ``chatglm``.

The first has a network of its own: the residual is the normalised input times sqrt(2 L), two rotary embeddings (one
counts within the context, one within the answer), the context is seen in both directions, and its inverse frequencies
are rounded to float16. The others are Llama-like with rotary on half of each head, in interleaved pairs.
"""

from __future__ import annotations

import math

from penstock.errors import CheckpointError
from penstock.models.architecture import Architecture, Attention, Block, Head, Mlp, Norm, PositionTokens, Rope
from penstock.models.common import gate_up, layer_norm, qkv
from penstock.models.family import Config, Family
from penstock.models.reading import MAX_CONTEXT, MAX_LAYERS, MAX_VOCAB, Reader
from penstock.models.rules import Rule, rename


def architecture(config: Config) -> Architecture:
    first = "inner_hidden_size" in config or "position_encoding_2d" in config or "max_sequence_length" in config
    return _first(Reader(config)) if first else _later(Reader(config))


def _first(r: Reader) -> Architecture:
    hidden, heads = r.whole("hidden_size"), r.whole("num_attention_heads", high=1 << 14)
    if hidden % (4 * heads):
        raise CheckpointError(
            f"{r.where}: hidden_size ({hidden}) must be a multiple of 4 num_attention_heads ({heads})"
        )
    dim, layers = hidden // heads, r.whole("num_layers", high=MAX_LAYERS)
    ropes = tuple(
        Rope(dim // 2, 10000.0, start=channel * dim // 2, channel=channel, half_precision=True) for channel in (0, 1)
    )
    attention = Attention(
        heads, heads, dim, dim**-0.5, ropes=ropes, qkv_bias=True, out_bias=True, bidirectional_prompt=True
    )
    width = r.whole("inner_hidden_size", default=4 * hidden)
    mlp = Mlp(width, "gelu_tanh", gated=False, up_bias=True, down_bias=True)
    norm = layer_norm(r, "layernorm_epsilon")
    context = r.whole("max_sequence_length", default=2048, high=MAX_CONTEXT)
    block = Block(attention, mlp, norm, residual_norm_scale=math.sqrt(2 * layers))
    tokens = PositionTokens(
        bos=r.whole("bos_token_id", default=130004, low=0, high=MAX_VOCAB),
        mask=r.whole("mask_token_id", default=130000, low=0, high=MAX_VOCAB),
        gmask=r.whole("gmask_token_id", default=130001, low=0, high=MAX_VOCAB),
    )
    r.only("position_encoding_2d", True)
    vocab, head = r.whole("vocab_size", high=MAX_VOCAB), Head(tied=r.flag("tie_word_embeddings", default=False))
    _done(r)
    return Architecture(
        "chatglm",
        vocab,
        hidden,
        context,
        (block,) * layers,
        norm,
        head=head,
        position_channels=2,
        position_tokens=tokens,
        prefix_shifts=False,
    )


def _later(r: Reader) -> Architecture:
    hidden, heads = r.whole("hidden_size"), r.whole("num_attention_heads", high=1 << 14)
    dim = r.whole("kv_channels", default=max(1, hidden // heads), high=1 << 14)
    kv_heads = r.whole("multi_query_group_num", default=1, high=heads)
    if not r.flag("multi_query_attention", default=False):
        kv_heads = heads
    if dim % 4 or heads % kv_heads:
        raise CheckpointError(f"{r.where}: kv_channels ({dim}) must be a multiple of 4, heads of multi_query_group_num")
    bias = r.flag("add_bias_linear", default=False)
    kind = "rms" if r.flag("rmsnorm", default=True) else "layer"
    norm = Norm("rms" if kind == "rms" else "layer", r.number("layernorm_epsilon", default=1e-5), bias=kind == "layer")
    theta = 10000.0 * r.number("rope_ratio", default=1.0, low=1e-6)
    attention = Attention(
        heads, kv_heads, dim, dim**-0.5, ropes=(Rope(dim // 2, theta, interleaved=True),),
        qkv_bias=r.flag("add_qkv_bias", default=False) or bias, out_bias=bias,
    )  # fmt: skip
    mlp = Mlp(r.whole("ffn_hidden_size"), "silu", up_bias=bias, down_bias=bias)
    from_norm = r.flag("apply_residual_connection_post_layernorm", default=False)
    block = Block(attention, mlp, norm, residual_norm_scale=1.0 if from_norm else None)
    layers = r.whole("num_layers", "num_hidden_layers", high=MAX_LAYERS)
    context = r.whole("seq_length", default=2048, high=MAX_CONTEXT)
    vocab = r.whole("padded_vocab_size", "vocab_size", high=MAX_VOCAB)
    final, head = r.flag("post_layer_norm", default=True), Head(tied=r.flag("tie_word_embeddings", default=False))
    r.only("original_rope", True)
    r.only("interleaved_qkv", False)
    r.read.update(("apply_query_key_layer_scaling", "fp32_residual_connection", "eps"))  # how, not what
    _done(r)
    return Architecture(
        "chatglm", vocab, hidden, context, (block,) * layers, norm if final else None, head=head, prefix_shifts=False
    )


def _done(r: Reader) -> None:
    r.only("pre_seq_len")
    r.only("prefix_projection", False)
    r.only("quantization_bit", 0)
    r.done()


def rules(arch: Architecture, config: Config) -> tuple[Rule, ...]:
    if arch.position_channels == 2:
        attention = arch.blocks[0].attention
        return (
            rename("transformer.word_embeddings.weight", "embed.weight"),
            *_layer_rules("transformer.layers.{i}", "attention", groups=attention.heads),
            rename("transformer.layers.{i}.mlp.dense_h_to_4h.{p:weight|bias}", "layers.{i}.mlp.up.{p}"),
            rename("transformer.final_layernorm.{p:weight|bias}", "final_norm.{p}"),
            rename("lm_head.weight", "head.weight", tied_to="embed.weight"),
        )
    return (
        rename("transformer.embedding.word_embeddings.weight", "embed.weight"),
        *_layer_rules("transformer.encoder.layers.{i}", "self_attention", groups=1),
        gate_up("transformer.encoder.layers.{i}.mlp.dense_h_to_4h"),
        rename("transformer.encoder.final_layernorm.{p:weight|bias}", "final_norm.{p}"),
        rename("transformer.output_layer.weight", "head.weight", tied_to="embed.weight"),
    )


def _layer_rules(at: str, attention: str, groups: int) -> tuple[Rule, ...]:
    return (
        rename(f"{at}.input_layernorm.{{p:weight|bias}}", "layers.{i}.attn_norm.{p}"),
        qkv(f"{at}.{attention}.query_key_value", groups),
        rename(f"{at}.{attention}.dense.{{p:weight|bias}}", "layers.{i}.attn.o.{p}"),
        rename(f"{at}.post_attention_layernorm.{{p:weight|bias}}", "layers.{i}.mlp_norm.{p}"),
        rename(f"{at}.mlp.dense_4h_to_h.{{p:weight|bias}}", "layers.{i}.mlp.down.{p}"),
    )


FAMILY = Family(
    "chatglm", ("chatglm",), architecture, rules, "chatglm", ("<eop>", "<|endoftext|>", "<|user|>", "<|observation|>")
)
