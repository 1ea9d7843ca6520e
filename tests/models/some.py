"""Small architectures, one for each thing the builder can do."""

from __future__ import annotations

from dataclasses import replace

from penstock.models.architecture import (
    Architecture,
    Attention,
    Block,
    Embedding,
    Head,
    Mlp,
    Moe,
    Norm,
    Rope,
    RopeScaling,
)

RMS, LAYER = Norm("rms", 1e-5), Norm("layer", 1e-5, bias=True)
ROPE = Rope(4, 10000.0)
ATTENTION = Attention(4, 2, 4, 0.5, ropes=(ROPE,))
BLOCK = Block(ATTENTION, Mlp(12, "silu"), RMS)
LLAMA = Architecture("llama", 30, 16, 64, (BLOCK, BLOCK), RMS)


def with_block(name: str, **changes: object) -> Architecture:
    return replace(LLAMA, family=name, blocks=(replace(BLOCK, **changes),) * 2)  # type: ignore[arg-type]


def with_attention(name: str, **changes: object) -> Architecture:
    return with_block(name, attention=replace(ATTENTION, **changes))  # type: ignore[arg-type]


NTK = RopeScaling("qwen_ntk", original_length=4)
LONG = RopeScaling("longrope", 2.0, 32, short_factor=(1.0, 1.5), long_factor=(2.0, 4.0))
MOE = Moe(5, 2, 6, "silu", renormalise=True)
ARCHITECTURES: dict[str, Architecture] = {
    "llama": LLAMA,
    "biases": with_attention("biases", qkv_bias=True, out_bias=True),
    "qk norm": with_attention("qk norm", qk_norm=RMS),
    "qk norms": with_attention("qk norms", qk_norm=replace(LAYER, bias=False), qk_norm_shared=False),
    "qk norm of the whole": with_attention("qk norm of the whole", qk_norm=RMS, qk_norm_per_head=False),
    "window": with_attention("window", window=3, softcap=5.0),
    "alibi": with_attention("alibi", ropes=(), alibi=(0.5, 0.25, 0.125, 0.0625)),
    "log n": with_attention("log n", log_n=4, ropes=(replace(ROPE, scaling=NTK),)),
    "partial": with_attention("partial", ropes=(Rope(2, 10000.0, interleaved=True),)),
    "two ropes": replace(
        with_attention("two ropes", ropes=(Rope(2, 1e4), Rope(2, 1e4, start=2, channel=1)), bidirectional_prompt=True),
        position_channels=2,
    ),
    "dynamic": with_attention("dynamic", ropes=(replace(ROPE, scaling=RopeScaling("dynamic", 2.0, 6)),)),
    "longrope": with_attention("longrope", ropes=(replace(ROPE, scaling=LONG),)),
    "parallel": with_block("parallel", residual="parallel", norm=LAYER),
    "parallel shared": with_block("parallel shared", residual="parallel_shared", norm=LAYER),
    "post norms": with_block("post norms", post_norms=True, norm=Norm("rms", 1e-6, plus_one=True)),
    "post": replace(
        with_block("post", norm_position="post", norm=LAYER), final_norm=None,
        embedding=Embedding(width=10, positions=64, position_offset=2), head=Head(tied=True),
    ),
    "scaled residual": with_block("scaled residual", residual_norm_scale=2.0, norm=LAYER),
    "plain mlp": with_block("plain mlp", mlp=Mlp(12, "gelu", gated=False, up_bias=True, down_bias=True)),
    "moe": with_block("moe", mlp=MOE),
    "shared expert": with_block("shared expert", mlp=replace(MOE, shared=Mlp(8, "silu"), shared_gate=True)),
    "head": replace(
        LLAMA, family="head", embedding=Embedding(scale=4.0, norm=LAYER), head=Head(bias=True, scale=0.5, softcap=3.0)
    ),
}  # fmt: skip
