"""GPT-Neo: GPT-2 with plain linears, scores that are not scaled, and a window in every other layer."""

from __future__ import annotations

from penstock.errors import CheckpointError
from penstock.models.architecture import Architecture, Attention, Block, Embedding, Head, Mlp
from penstock.models.common import layer_norm
from penstock.models.family import Config, Family
from penstock.models.reading import MAX_CONTEXT, MAX_LAYERS, MAX_VOCAB, Reader
from penstock.models.rules import Rule, ignore, rename


def architecture(config: Config) -> Architecture:
    r = Reader(config)
    hidden, heads = r.whole("hidden_size"), r.whole("num_heads", "num_attention_heads", high=1 << 14)
    if hidden % heads:
        raise CheckpointError(f"{r.where}: hidden_size ({hidden}) must be a multiple of num_heads ({heads})")
    layers = r.whole("num_layers", "num_hidden_layers", high=MAX_LAYERS)
    window = r.whole("window_size", default=256, high=MAX_CONTEXT)
    context = r.whole("max_position_embeddings", default=2048, high=MAX_CONTEXT)
    norm = layer_norm(r)
    act = r.activation("activation_function", default="gelu_new")
    mlp = Mlp(r.whole("intermediate_size", default=4 * hidden), act, gated=False, up_bias=True, down_bias=True)
    blocks = tuple(
        Block(
            Attention(heads, heads, hidden // heads, 1.0, out_bias=True, window=window if kind == "local" else None),
            mlp, norm,
        )
        for kind in _kinds(r, layers)
    )  # fmt: skip
    vocab, head = r.whole("vocab_size", high=MAX_VOCAB), Head(tied=r.flag("tie_word_embeddings", default=True))
    r.done()
    return Architecture("gpt_neo", vocab, hidden, context, blocks, norm, Embedding(positions=context), head)


def _kinds(r: Reader, layers: int) -> list[str]:
    """``attention_types`` [[["global", "local"], 12]] is a pattern twelve times; ``attention_layers`` spells it out."""
    types = r.get("attention_types", default=[[["global", "local"], layers // 2]])
    r.read.add("attention_layers")
    try:
        if sum(len(pattern) * int(times) for pattern, times in types) != layers:
            raise ValueError
        kinds = [str(kind) for pattern, times in types for _ in range(int(times)) for kind in pattern]
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{r.where}: attention_types must add up to {layers} layers, found {types!r:.80}"
        ) from error
    for unknown in sorted(set(kinds) - {"global", "local"}):
        r.refuse(f"attention_types = {unknown!r} (known: global, local)")
    return kinds


def rules(arch: Architecture, config: Config) -> tuple[Rule, ...]:
    at = "[transformer.]h.{i}"
    return (
        rename("[transformer.]wte.weight", "embed.weight"),
        rename("[transformer.]wpe.weight", "positions.weight"),
        rename(f"{at}.ln_1.{{p:weight|bias}}", "layers.{i}.attn_norm.{p}"),
        rename(f"{at}.attn.attention.{{x:q|k|v}}_proj.weight", "layers.{i}.attn.{x}.weight"),
        rename(f"{at}.attn.attention.out_proj.{{p:weight|bias}}", "layers.{i}.attn.o.{p}"),
        rename(f"{at}.ln_2.{{p:weight|bias}}", "layers.{i}.mlp_norm.{p}"),
        rename(f"{at}.mlp.c_fc.{{p:weight|bias}}", "layers.{i}.mlp.up.{p}"),
        rename(f"{at}.mlp.c_proj.{{p:weight|bias}}", "layers.{i}.mlp.down.{p}"),
        rename("[transformer.]ln_f.{p:weight|bias}", "final_norm.{p}"),
        rename("lm_head.weight", "head.weight", tied_to="embed.weight"),
        ignore(f"{at}.attn.attention.bias"),
    )


FAMILY = Family("gpt_neo", ("gpt_neo",), architecture, rules)
