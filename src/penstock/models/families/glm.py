"""GLM-4 in transformers' form (``glm``: 9B; ``glm4``: the 0414 models, with post norms): interleaved half rotary."""

from __future__ import annotations

from penstock.models.architecture import Architecture, Attention, Block, Head, Mlp, Rope
from penstock.models.common import LLAMA_RULES, gate_up, read_sizes, rms
from penstock.models.family import Config, Family
from penstock.models.reading import Reader
from penstock.models.rope_facts import read_rope
from penstock.models.rules import Rule, rename


def architecture(config: Config) -> Architecture:
    r = Reader(config)
    newer = config.get("model_type") == "glm4"
    s = read_sizes(r, context=131072, kv_heads=2, head_dim=128)
    norm = rms(r, 1.5625e-07)
    theta, dim, scaling = read_rope(r, s.head_dim, s.context, partial=0.5)
    attention = Attention(
        s.heads, s.kv_heads, s.head_dim, s.head_dim**-0.5,
        ropes=(Rope(dim, theta, interleaved=True, scaling=scaling),), qkv_bias=r.flag("attention_bias", default=True),
    )  # fmt: skip
    mlp = Mlp(r.whole("intermediate_size"), r.activation("hidden_act"))
    block = Block(attention, mlp, norm, post_norms=newer)
    head = Head(tied=r.flag("tie_word_embeddings", default=False))
    r.done()
    return Architecture("glm4" if newer else "glm", s.vocab, s.hidden, s.context, (block,) * s.layers, norm, head=head)


def rules(arch: Architecture, config: Config) -> tuple[Rule, ...]:
    return (
        *LLAMA_RULES,
        gate_up("[model.]layers.{i}.mlp.gate_up_proj"),
        rename("[model.]layers.{i}.post_self_attn_layernorm.weight", "layers.{i}.attn_post_norm.weight"),
        rename("[model.]layers.{i}.post_mlp_layernorm.weight", "layers.{i}.mlp_post_norm.weight"),
    )


FAMILY = Family("glm", ("glm", "glm4"), architecture, rules, "glm4", ("<|endoftext|>", "<|user|>", "<|observation|>"))
