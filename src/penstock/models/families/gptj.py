"""GPT-J: attention and MLP side by side from one norm, interleaved rotary, a bias on the output projection."""

from __future__ import annotations

from penstock.errors import CheckpointError
from penstock.models.architecture import Architecture, Attention, Block, Head, Mlp, Rope
from penstock.models.common import layer_norm
from penstock.models.family import Config, Family
from penstock.models.reading import MAX_CONTEXT, MAX_LAYERS, MAX_VOCAB, Reader
from penstock.models.rules import Rule, ignore, rename


def architecture(config: Config) -> Architecture:
    r = Reader(config)
    hidden, heads = r.whole("n_embd", "hidden_size"), r.whole("n_head", "num_attention_heads", high=1 << 14)
    dim = hidden // heads
    rotated = r.whole("rotary_dim", default=64 if "rotary_dim" not in config else dim, low=2)
    if hidden % heads or rotated % 2 or rotated > dim:
        raise CheckpointError(
            f"{r.where}: n_embd ({hidden}) must be a multiple of n_head ({heads}), rotary_dim ({rotated}) even and at "
            f"most a head's {dim}"
        )
    norm = layer_norm(r)
    rope = Rope(rotated, 10000.0, interleaved=True)
    act = r.activation("activation_function", default="gelu_new")
    mlp = Mlp(r.whole("n_inner", default=4 * hidden), act, gated=False, up_bias=True, down_bias=True)
    block = Block(Attention(heads, heads, dim, dim**-0.5, ropes=(rope,)), mlp, norm, residual="parallel_shared")
    layers = r.whole("n_layer", "num_hidden_layers", high=MAX_LAYERS)
    context = r.whole("n_positions", "max_position_embeddings", default=2048, high=MAX_CONTEXT)
    head = Head(tied=r.flag("tie_word_embeddings", default=False), bias=True)
    vocab = r.whole("vocab_size", high=MAX_VOCAB)
    r.only("rotary", True)
    r.only("scale_attn_weights", True)
    r.done()
    return Architecture("gptj", vocab, hidden, context, (block,) * layers, norm, head=head)


def rules(arch: Architecture, config: Config) -> tuple[Rule, ...]:
    at = "[transformer.]h.{i}"
    return (
        rename("[transformer.]wte.weight", "embed.weight"),
        rename(f"{at}.ln_1.{{p:weight|bias}}", "layers.{i}.attn_norm.{p}"),
        rename(f"{at}.attn.{{x:q|k|v}}_proj.weight", "layers.{i}.attn.{x}.weight"),
        rename(f"{at}.attn.out_proj.weight", "layers.{i}.attn.o.weight"),
        rename(f"{at}.mlp.fc_in.{{p:weight|bias}}", "layers.{i}.mlp.up.{p}"),
        rename(f"{at}.mlp.fc_out.{{p:weight|bias}}", "layers.{i}.mlp.down.{p}"),
        rename("[transformer.]ln_f.{p:weight|bias}", "final_norm.{p}"),
        rename("lm_head.weight", "head.weight", tied_to="embed.weight"),
        rename("lm_head.bias", "head.bias"),
        ignore(f"{at}.attn.bias"),
    )


FAMILY = Family("gptj", ("gptj",), architecture, rules)
