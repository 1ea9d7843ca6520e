"""InternLM 2 and 2.5: Llama under other names, q, k, v interleaved by key head."""

from __future__ import annotations

from penstock.models.architecture import Architecture, Attention, Block, Head, Mlp
from penstock.models.common import qkv, read_ropes, read_sizes, rms
from penstock.models.family import Config, Family
from penstock.models.reading import Reader
from penstock.models.rules import Rule, rename


def architecture(config: Config) -> Architecture:
    r = Reader(config)
    s = read_sizes(r, context=2048)
    norm = rms(r)
    bias = r.flag("bias", default=True)
    attention = Attention(
        s.heads, s.kv_heads, s.head_dim, s.head_dim**-0.5, ropes=read_ropes(r, s), qkv_bias=bias, out_bias=bias
    )
    mlp = Mlp(r.whole("intermediate_size"), r.activation("hidden_act"))
    head = Head(tied=r.flag("tie_word_embeddings", default=False))
    r.done()
    return Architecture(
        "internlm2", s.vocab, s.hidden, s.context, (Block(attention, mlp, norm),) * s.layers, norm, head=head
    )


def rules(arch: Architecture, config: Config) -> tuple[Rule, ...]:
    at = "[model.]layers.{i}"
    return (
        rename("[model.]tok_embeddings.weight", "embed.weight"),
        rename(f"{at}.attention_norm.weight", "layers.{i}.attn_norm.weight"),
        qkv(f"{at}.attention.wqkv", groups=arch.blocks[0].attention.kv_heads),
        rename(f"{at}.attention.wo.{{p:weight|bias}}", "layers.{i}.attn.o.{p}"),
        rename(f"{at}.ffn_norm.weight", "layers.{i}.mlp_norm.weight"),
        rename(f"{at}.feed_forward.w1.weight", "layers.{i}.mlp.gate.weight"),
        rename(f"{at}.feed_forward.w3.weight", "layers.{i}.mlp.up.weight"),
        rename(f"{at}.feed_forward.w2.weight", "layers.{i}.mlp.down.weight"),
        rename("[model.]norm.weight", "final_norm.weight"),
        rename("output.weight", "head.weight", tied_to="embed.weight"),
    )


FAMILY = Family("internlm2", ("internlm2",), architecture, rules, template="chatml", stop_tokens=("<|im_end|>",))
