"""The llama decoder in plain torch, with the weight names and the arithmetic of the published one, for training only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; the defaults are the shipped ones."""

    vocab: int = 4096
    hidden: int = 256
    layers: int = 6
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 32
    mlp: int = 512
    theta: float = 10000.0
    eps: float = 1e-5
    context: int = 1024


class Norm(nn.Module):  # type: ignore[misc]
    """RMSNorm over the last axis."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding, half-split form; x is [rows, heads, tokens, head_dim]."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Layer(nn.Module):  # type: ignore[misc]
    """One pre-norm block: grouped-query attention, then the gated MLP."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.input_layernorm = Norm(s.hidden, s.eps)
        self.post_attention_layernorm = Norm(s.hidden, s.eps)
        self.q_proj = nn.Linear(s.hidden, s.heads * s.head_dim, bias=False)
        self.k_proj = nn.Linear(s.hidden, s.kv_heads * s.head_dim, bias=False)
        self.v_proj = nn.Linear(s.hidden, s.kv_heads * s.head_dim, bias=False)
        self.o_proj = nn.Linear(s.heads * s.head_dim, s.hidden, bias=False)
        self.gate_proj = nn.Linear(s.hidden, s.mlp, bias=False)
        self.up_proj = nn.Linear(s.hidden, s.mlp, bias=False)
        self.down_proj = nn.Linear(s.mlp, s.hidden, bias=False)

    def forward(self, x: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        s = self.s
        rows, tokens, _ = x.shape
        h = self.input_layernorm(x)
        q = rotate(self.q_proj(h).view(rows, tokens, s.heads, s.head_dim).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(h).view(rows, tokens, s.kv_heads, s.head_dim).transpose(1, 2), cos, sin)
        v = self.v_proj(h).view(rows, tokens, s.kv_heads, s.head_dim).transpose(1, 2)
        again = s.heads // s.kv_heads
        k, v = k.repeat_interleave(again, 1), v.repeat_interleave(again, 1)
        # Written out: on CPUs the backward of the fused attention is slower than all matrix products together.
        score = (q @ k.transpose(-1, -2)) * s.head_dim**-0.5 + mask
        out = torch.softmax(score, -1, dtype=v.dtype) @ v
        x = x + self.o_proj(out.transpose(1, 2).reshape(rows, tokens, s.heads * s.head_dim))
        h = self.post_attention_layernorm(x)
        y: Tensor = x + self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))
        return y


class Llama(nn.Module):  # type: ignore[misc]
    """Decoder with a tied head."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.embed_tokens = nn.Embedding(s.vocab, s.hidden)
        self.layers = nn.ModuleList(Layer(s) for _ in range(s.layers))
        self.norm = Norm(s.hidden, s.eps)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                last = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=0.02 / (2 * s.layers) ** 0.5 if last else 0.02)
        freq = s.theta ** (-torch.arange(0, s.head_dim, 2).float() / s.head_dim)
        angle = torch.arange(s.context).float()[:, None] * freq
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Hidden states [rows, tokens, hidden] after the last norm; mask is additive [rows, 1, tokens, tokens]."""
        x = self.embed_tokens(ids)
        n = ids.shape[1]
        for layer in self.layers:
            x = layer(x, mask, self.cos[:n].to(x.dtype), self.sin[:n].to(x.dtype))
        out: Tensor = self.norm(x)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores [..., vocab] by the tied head."""
        return F.linear(hidden, self.embed_tokens.weight.to(hidden.dtype))
