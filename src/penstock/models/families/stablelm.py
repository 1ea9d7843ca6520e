"""StableLM 2 and 3B: Llama with LayerNorm and rotary on a part of each head; the 12B has parallel residuals.

The first checkpoints call themselves ``stablelm_epoch`` and have older key names.
"""

from __future__ import annotations

from dataclasses import replace

from penstock.models.architecture import Architecture, Attention, Block, Head, Mlp
from penstock.models.common import LLAMA_RULES, layer_norm, read_ropes, read_sizes
from penstock.models.family import Config, Family
from penstock.models.reading import Reader
from penstock.models.rules import Rule, stack


def architecture(config: Config) -> Architecture:
    r = Reader(config)
    s = read_sizes(r, context=4096, kv_heads=None if "num_key_value_heads" in config else 32)
    norm = layer_norm(r, "layer_norm_eps", "norm_eps")
    r.only("rotary_scaling_factor", 1.0)
    partial = r.number("rope_pct", default=0.25, high=1.0)
    attention = Attention(
        s.heads, s.kv_heads, s.head_dim, s.head_dim**-0.5, ropes=read_ropes(r, s, partial=partial),
        qkv_bias=r.flag("use_qkv_bias", default=False), qk_norm_shared=False,
        qk_norm=replace(norm, bias=False) if r.flag("qk_layernorm", default=False) else None,
    )  # fmt: skip
    mlp = Mlp(r.whole("intermediate_size"), r.activation("hidden_act"))
    parallel = r.flag("use_parallel_residual", default=False)
    block = Block(attention, mlp, norm, residual="parallel_shared" if parallel else "sequential")
    head = Head(tied=r.flag("tie_word_embeddings", default=False))
    r.done()
    return Architecture("stablelm", s.vocab, s.hidden, s.context, (block,) * s.layers, norm, head=head)


def rules(arch: Architecture, config: Config) -> tuple[Rule, ...]:
    norms = "[model.]layers.{i}.self_attn.{x:q|k}_layernorm.norms.{h}.weight"
    return (*LLAMA_RULES, stack(norms, "layers.{i}.attn.{x}_norm.weight", "h"))


FAMILY = Family("stablelm", ("stablelm", "stablelm_epoch"), architecture, rules, template="chatml")
