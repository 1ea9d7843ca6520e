"""Facts that many families read alike, and the names that Llama's checkpoints started."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.errors import CheckpointError
from penstock.models.architecture import Norm, Rope
from penstock.models.reading import MAX_CONTEXT, MAX_LAYERS, MAX_VOCAB, Reader
from penstock.models.rope_facts import read_rope
from penstock.models.rules import Rule, ignore, rename, split

SWITCHES = ("full_attention", "sliding_attention")


def qkv(source: str, groups: int = 1) -> Rule:
    """``source`` (up to ``.weight`` or ``.bias``) holds q, k and v, in ``groups`` that each have some of all three."""
    return split(
        f"{source}.{{p:weight|bias}}",
        ("layers.{i}.attn.q.{p}", "layers.{i}.attn.k.{p}", "layers.{i}.attn.v.{p}"),
        groups=groups,
    )


def gate_up(source: str) -> Rule:
    """``source`` holds the gate's rows, then those of up."""
    return split(f"{source}.weight", ("layers.{i}.mlp.gate.weight", "layers.{i}.mlp.up.weight"))


LLAMA_ATTENTION: tuple[Rule, ...] = (
    rename("[model.]embed_tokens.weight", "embed.weight"),
    rename("[model.]layers.{i}.input_layernorm.{p:weight|bias}", "layers.{i}.attn_norm.{p}"),
    rename("[model.]layers.{i}.self_attn.{x:q|k|v|o}_proj.{p:weight|bias}", "layers.{i}.attn.{x}.{p}"),
    rename("[model.]layers.{i}.self_attn.{x:q|k}_norm.weight", "layers.{i}.attn.{x}_norm.weight"),
    rename("[model.]layers.{i}.post_attention_layernorm.{p:weight|bias}", "layers.{i}.mlp_norm.{p}"),
    rename("[model.]norm.{p:weight|bias}", "final_norm.{p}"),
    rename("lm_head.weight", "head.weight", tied_to="embed.weight"),
    ignore("*.rotary_emb.cos_cached"),
    ignore("*.rotary_emb.sin_cached"),
)
LLAMA_MLP: tuple[Rule, ...] = (
    rename("[model.]layers.{i}.mlp.{x:gate|up|down}_proj.{p:weight|bias}", "layers.{i}.mlp.{x}.{p}"),
)
LLAMA_RULES = (*LLAMA_ATTENTION, *LLAMA_MLP)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes that every decoder has."""

    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int


def read_sizes(
    r: Reader, context: int, *, kv_heads: int | None = None, head_dim: int | None = None, whole_heads: bool = True
) -> Sizes:
    """Sizes under transformers' usual names. ``context``, ``kv_heads`` and ``head_dim`` are the family's defaults.

    Raises ``CheckpointError`` where heads do not divide.
    """
    hidden = r.whole("hidden_size")
    heads = r.whole("num_attention_heads", high=1 << 14)
    kv = r.whole("num_key_value_heads", default=kv_heads or heads, high=1 << 14)
    if heads % kv:
        raise CheckpointError(
            f"{r.where}: num_attention_heads ({heads}) must be a multiple of num_key_value_heads ({kv})"
        )
    if head_dim is None and hidden % heads and r.config.get("head_dim") is None and whole_heads:
        raise CheckpointError(f"{r.where}: hidden_size ({hidden}) must be a multiple of num_attention_heads ({heads})")
    return Sizes(
        vocab=r.whole("vocab_size", high=MAX_VOCAB),
        hidden=hidden,
        layers=r.whole("num_hidden_layers", high=MAX_LAYERS),
        heads=heads,
        kv_heads=kv,
        head_dim=r.whole("head_dim", default=head_dim or hidden // heads, high=1 << 14),
        context=r.whole("max_position_embeddings", default=context, high=MAX_CONTEXT),
    )


def read_ropes(r: Reader, s: Sizes, theta: float = 10000.0, partial: float = 1.0) -> tuple[Rope, ...]:
    """One rotary embedding from element 0 of each head."""
    base, dim, scaling = read_rope(r, s.head_dim, s.context, theta, partial)
    return (Rope(dim, base, scaling=scaling),)


def rms(r: Reader, default: float = 1e-6) -> Norm:
    return Norm("rms", r.number("rms_norm_eps", default=default, high=1.0))


def read_windows(r: Reader, layers: int, window: int | None, kinds: list[str]) -> list[int | None]:
    """The window of each layer: ``layer_types`` if given, else ``kinds``; None where a layer sees everything."""
    kinds = r.get("layer_types", default=kinds)
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise CheckpointError(f"{r.where}: layer_types must list {layers} layers, found {str(kinds)[:80]!r}")
    for unknown in sorted({str(kind) for kind in kinds} - set(SWITCHES)):
        r.refuse(f"layer_types = {unknown!r} (known: {', '.join(SWITCHES)})")
    return [window if kind == "sliding_attention" else None for kind in kinds]


def layer_norm(r: Reader, *names: str) -> Norm:
    """With a bias; ``names`` are those of its epsilon."""
    return Norm("layer", r.number(*(names or ("layer_norm_epsilon",)), default=1e-5, high=1.0), bias=True)


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """Slopes of ALiBi (Press et al. 2021): powers of 2 ** (-8 / n) for n heads, a power of two; for other counts those
    of the power below, then every other one of the power above."""

    def powers(n: int) -> list[float]:
        return [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]

    below = 1 << (heads.bit_length() - 1)
    return tuple((powers(below) + powers(2 * below)[::2])[:heads])
