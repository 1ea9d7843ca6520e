"""Facts about a decoder: everything the builder needs to know of a family and a checkpoint, and nothing it runs.

A family file reads a checkpoint's ``config.json`` into an :class:`Architecture`. Layers may differ, so there is one
:class:`Block` per layer. All sizes are in elements; all fields are plain data, so an architecture can be printed,
compared and stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]


@dataclass(frozen=True, slots=True)
class Norm:
    """``rms``: x / rms(x) * w. ``layer``: (x - mean) / std * w + b. ``plus_one`` multiplies by (1 + w) instead."""

    kind: Literal["rms", "layer"]
    eps: float
    bias: bool = False
    plus_one: bool = False


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies change with length; see ``models/rope.py`` for the arithmetic and the sources.

    ``linear yarn llama3`` are fixed at load. ``dynamic`` (NTK), ``longrope`` and ``qwen_ntk`` depend on the length a
    token sees; penstock fixes that length per token as max(prompt length, position + 1), so chunks do not matter.
    """

    kind: Literal["linear", "dynamic", "yarn", "llama3", "longrope", "qwen_ntk"]
    factor: float = 1.0
    original_length: int = 0
    attention_factor: float | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary embedding of ``dim`` elements of a head, starting at ``start``.

    ``interleaved``: pairs are (2i, 2i+1); otherwise (i, i + dim/2). ``channel`` picks the row of ``Batch.positions``.
    ``half_precision`` rounds the inverse frequencies to float16 (the original ChatGLM-6B does).
    """

    dim: int
    theta: float
    interleaved: bool = False
    scaling: RopeScaling | None = None
    start: int = 0
    channel: int = 0
    half_precision: bool = False


@dataclass(frozen=True, slots=True)
class Attention:
    """Multi-head attention with grouped key/value heads over a paged cache.

    ``window``: a query at cache index i sees j with i - window < j <= i. ``softcap``: cap * tanh(s / cap).
    ``log_n``: scale a query at position p >= log_n by log(p + 1) / log(log_n) (Qwen-1).
    ``qk_norm`` normalises q and k before rotation: each head (``qk_norm_per_head``) or the whole row; heads share one
    weight [head_dim] (``qk_norm_shared``) or have their own [heads, head_dim].
    ``bidirectional_prompt``: prompt tokens up to a boundary given per sequence see each other (prefix LM).
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    ropes: tuple[Rope, ...] = ()
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: Norm | None = None
    qk_norm_per_head: bool = True
    qk_norm_shared: bool = True
    window: int | None = None
    softcap: float | None = None
    alibi: tuple[float, ...] = ()
    log_n: int | None = None
    bidirectional_prompt: bool = False

    @property
    def q_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class Mlp:
    """``gated``: down(act(gate(x)) * up(x)); otherwise down(act(up(x)))."""

    width: int
    activation: Activation
    gated: bool = True
    up_bias: bool = False
    down_bias: bool = False


@dataclass(frozen=True, slots=True)
class Moe:
    """Sparse mixture of gated experts.

    Router: softmax over all experts, then the ``top_k`` largest; ``renormalise`` divides them by their sum.
    ``shared``: a dense expert added for every token, times sigmoid(gate(x)) when ``shared_gate``.
    """

    experts: int
    top_k: int
    width: int
    activation: Activation
    renormalise: bool
    shared: Mlp | None = None
    shared_gate: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """One decoder layer.

    ``residual``: ``sequential`` x += attn(n1(x)); x += mlp(n2(x)). ``parallel`` x += attn(n1(x)) + mlp(n2(x)).
    ``parallel_shared`` the same with one norm n1 for both. ``post_norms`` normalise a branch before it is added
    (Gemma 2, GLM-4). ``norm_position`` "post" normalises after the addition (OPT-350m). ``residual_norm_scale``:
    the residual is the normalised input times this factor (ChatGLM-6B).
    """

    attention: Attention
    mlp: Mlp | Moe
    norm: Norm
    residual: Literal["sequential", "parallel", "parallel_shared"] = "sequential"
    norm_position: Literal["pre", "post"] = "pre"
    post_norms: bool = False
    residual_norm_scale: float | None = None


@dataclass(frozen=True, slots=True)
class Embedding:
    """Token embedding. ``positions`` learned rows after ``position_offset``; ``width`` if not hidden (OPT-350m)."""

    scale: float = 1.0
    positions: int = 0
    position_offset: int = 0
    norm: Norm | None = None
    width: int | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """Output projection. ``scale`` multiplies logits, then ``softcap``; ``normalised`` rows (Baichuan 2) at load."""

    tied: bool = False
    bias: bool = False
    scale: float = 1.0
    softcap: float | None = None
    normalised: bool = False


@dataclass(frozen=True, slots=True)
class PositionTokens:
    """Token ids that set positions in a ChatGLM-6B prompt (``models/positions.py``)."""

    bos: int
    mask: int
    gmask: int


@dataclass(frozen=True, slots=True)
class Architecture:
    """All facts of one model. ``context_length`` is the longest sequence it was made for, in tokens.

    ``prefix_shifts``: behind a tuned prefix of keys and values, positions go on from its length (else from 0).
    ``recompute_past``: a sequence that grows past so many tokens is computed anew, since its rotary embedding changes.
    """

    family: str
    vocab_size: int
    hidden_size: int
    context_length: int
    blocks: tuple[Block, ...]
    final_norm: Norm | None
    embedding: Embedding = field(default_factory=Embedding)
    head: Head = field(default_factory=Head)
    position_channels: int = 1
    position_tokens: PositionTokens | None = None
    prefix_shifts: bool = True
    recompute_past: int | None = None

    @property
    def length_scaling(self) -> RopeScaling | None:
        """The rotary scaling that depends on a sequence's length, if any."""
        for block in self.blocks:
            for rope in block.attention.ropes:
                if rope.scaling is not None and rope.scaling.kind in ("dynamic", "longrope", "qwen_ntk"):
                    return rope.scaling
        return None

    def length_key(self, prompt_len: int) -> int:
        """Prompts of equal keys rotate equal tokens equally: only those may share cached rows (prefix cache)."""
        from penstock.models.rope import length_key

        return length_key(self.length_scaling, prompt_len)
