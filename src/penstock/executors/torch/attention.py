"""Attention over the paged cache, sequence by sequence, with the whole score matrix: the plain meaning."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from penstock.executors.torch.step import Sequence, Step
from penstock.models.program import Op


def store(step: Step, op: Op, x: list[Tensor]) -> tuple[Tensor, ...]:
    cache = step.caches[int(op.attrs["layer"])]
    for rows, into in zip(x, (cache.keys, cache.values), strict=True):
        into.write(step.slots, rows)
    return ()


def attention(step: Step, op: Op, x: list[Tensor]) -> tuple[Tensor, ...]:
    a = op.attrs
    q = x[0].view(-1, int(a["heads"]), int(a["head_dim"]))
    if a["log_n"]:
        position = step.positions[0].double()
        factor = torch.log(position + 1) / math.log(float(a["log_n"]))
        q = q * torch.where(position >= a["log_n"], factor, 1.0).float()[:, None, None]
    y = torch.empty_like(q)
    for seq in step.sequences:
        y[seq.first : seq.last] = _one(step, op, seq, q[seq.first : seq.last])
    return (y.reshape(x[0].shape),)


def _one(step: Step, op: Op, seq: Sequence, q: Tensor) -> Tensor:
    """Rows of one sequence ``[n, heads, head_dim]`` over its cache."""
    a = op.attrs
    cache = step.caches[int(a["layer"])]
    repeat = int(a["heads"]) // int(a["kv_heads"])
    keys, values = (
        rows.read(seq.slots).repeat_interleave(repeat, dim=1).transpose(0, 1) for rows in (cache.keys, cache.values)
    )
    length = seq.slots.shape[0]
    i = torch.arange(length - q.shape[0], length)[:, None]
    j = torch.arange(length)[None, :]
    scores = q.transpose(0, 1) @ keys.transpose(1, 2) * a["scale"]
    if a["softcap"]:
        scores = torch.tanh(scores / a["softcap"]) * a["softcap"]
    if a["alibi"]:
        scores = scores + step.constants[a["alibi"]][:, None, None] * (j - i)
    return (torch.softmax(scores.masked_fill(~_seen(op, seq, i, j), -math.inf), dim=-1) @ values).transpose(0, 1)


def _seen(op: Op, seq: Sequence, i: Tensor, j: Tensor) -> Tensor:
    """Which cache rows ``j`` the query at cache row ``i`` sees."""
    seen = j <= i
    if op.attrs["bidirectional"] and seq.bidirectional:
        seen = seen | ((i < seq.bidirectional) & (j < seq.bidirectional))
    if op.attrs["window"]:
        seen = seen & (j > i - op.attrs["window"])
    return seen
