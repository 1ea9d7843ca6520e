"""The reference meaning of every op: one small function each, in float32, on whole matrices ``[rows, width]``."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.executors.torch.attention import attention, store
from penstock.executors.torch.step import Step
from penstock.models.passes.adapters import expert_target
from penstock.models.program import Op
from penstock.models.rope import inverse, stretched_theta

Run = Callable[[Step, Op, list[Tensor]], tuple[Tensor, ...]]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


def embed(step: Step, op: Op, x: list[Tensor]) -> tuple[Tensor, ...]:
    if step.embeds is not None:
        return (step.embeds,)
    return (step.weights[op.weights[0]][x[0]] * op.attrs["scale"],)


def embed_positions(step: Step, op: Op, x: list[Tensor]) -> tuple[Tensor, ...]:
    return (step.weights[op.weights[0]][x[0][op.attrs["channel"]] + op.attrs["offset"]],)


def normalise(x: Tensor, op: Op, weight: Tensor | None, bias: Tensor | None, group: int = 0) -> Tensor:
    """The norm that ``op.attrs`` describes, over groups of ``group`` elements (0: the whole row)."""
    kind, eps = op.attrs["norm"], op.attrs["eps"]
    if kind == "none":
        return x
    rows = x.view(x.shape[0], -1, group or x.shape[1])
    if kind == "layer":
        rows = rows - rows.mean(-1, keepdim=True)
    y = rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + eps)
    if weight is not None:
        y = y * (weight.view(-1, rows.shape[2]) + (1.0 if op.attrs["plus_one"] else 0.0))
    if bias is not None:
        y = y + bias.view(-1, rows.shape[2])
    return y.reshape(x.shape)


def norm(step: Step, op: Op, x: list[Tensor]) -> tuple[Tensor, ...]:
    weight, bias = (step.weight(name) for name in op.weights)
    return (normalise(x[0], op, weight, bias, int(op.attrs["group"])),)


def linears(step: Step, x: Tensor, weights: tuple[str, ...]) -> tuple[Tensor, ...]:
    """x W^T + b for each pair (weight, bias) of names."""
    pairs = zip(weights[::2], weights[1::2], strict=True)
    return tuple(F.linear(x, step.weights[weight], step.weight(bias)) for weight, bias in pairs)


def linear(step: Step, op: Op, x: list[Tensor]) -> tuple[Tensor, ...]:
    return linears(step, x[0], op.weights)


def angles(step: Step, op: Op, x: list[Tensor]) -> tuple[Tensor, ...]:
    a = op.attrs
    positions = x[0][a["channel"]]
    scale: Tensor | float = a["scale"]
    inv_freq = step.constants[a["inv_freq"]]
    if a["length"] == "longrope":
        long = (torch.maximum(step.prompt_lens, positions + 1) > a["original"])[:, None]
        inv_freq = torch.where(long, step.constants[a["inv_freq_long"]], inv_freq)
        scale = torch.where(long, a["scale_long"], a["scale"])
    elif a["length"] != "none":
        n = step.prompt_lens if a["length"] == "qwen_ntk" else torch.maximum(step.prompt_lens, positions + 1)
        inv_freq = torch.stack([_stretched(op, int(length), inv_freq) for length in n])
    angle = positions.float()[:, None] * inv_freq
    return (torch.cat([angle.cos() * scale, angle.sin() * scale], dim=1),)


def _stretched(op: Op, length: int, plain: Tensor) -> Tensor:
    a = op.attrs
    theta = stretched_theta(
        float(a["theta"]), int(a["dim"]), str(a["length"]), length, float(a["factor"]), int(a["original"])
    )
    return plain if theta == a["theta"] else torch.from_numpy(inverse(theta, int(a["dim"])))


def rotate(x: Tensor, cs: Tensor, op: Op) -> Tensor:
    """Pairs (x, y) of each head become (x cos - y sin, y cos + x sin)."""
    a = op.attrs
    dim, start = int(a["dim"]), int(a["start"])
    heads = x.view(x.shape[0], -1, int(a["head_dim"])).clone()
    part = heads[..., start : start + dim]
    cos, sin = cs[:, None, : dim // 2], cs[:, None, dim // 2 :]
    if a["interleaved"]:
        one, two = part[..., 0::2].clone(), part[..., 1::2].clone()
        part[..., 0::2], part[..., 1::2] = one * cos - two * sin, two * cos + one * sin
    else:
        one, two = part[..., : dim // 2].clone(), part[..., dim // 2 :].clone()
        part[..., : dim // 2], part[..., dim // 2 :] = one * cos - two * sin, two * cos + one * sin
    return heads.reshape(x.shape)


def rope(step: Step, op: Op, x: list[Tensor]) -> tuple[Tensor, ...]:
    return (rotate(x[0], x[1], op),)


def gated(step: Step, op: Op, x: list[Tensor]) -> tuple[Tensor, ...]:
    return (ACTIVATIONS[op.attrs["activation"]](x[0]) * x[1],)


def activation(step: Step, op: Op, x: list[Tensor]) -> tuple[Tensor, ...]:
    return (ACTIVATIONS[op.attrs["activation"]](x[0]),)


def add(step: Step, op: Op, x: list[Tensor]) -> tuple[Tensor, ...]:
    return (x[0] + x[1],)


def scale(step: Step, op: Op, x: list[Tensor]) -> tuple[Tensor, ...]:
    return (x[0] * op.attrs["factor"],)


def gate(step: Step, op: Op, x: list[Tensor]) -> tuple[Tensor, ...]:
    return (x[0] * torch.sigmoid(x[1]),)


def adapted(step: Step, y: Tensor, x: Tensor, slots: Tensor | None, target: str) -> Tensor:
    """``y`` = x W^T and what each row's adapter (by slot) adds to it. Row by row: what one gets depends on no other."""
    y = y.clone()
    for i, slot in enumerate(() if slots is None else slots.tolist()):
        factors = step.adapters[slot].get(target) if slot else None
        if factors is not None:
            a, b, factor = factors
            y[i] += factor * (b @ (a @ x[i]))
    return y


def moe(step: Step, op: Op, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """Each expert that is used sees its own tokens only."""
    rows, router = inputs
    gates, ups, downs = (step.weights[name] for name in op.weights)
    act = ACTIVATIONS[op.attrs["activation"]]
    p, chosen = torch.sort(torch.softmax(router, dim=-1), dim=-1, descending=True, stable=True)
    p, chosen = p[:, : op.attrs["top_k"]], chosen[:, : op.attrs["top_k"]]
    if op.attrs["renormalise"]:
        p = p / p.sum(-1, keepdim=True)
    y = torch.zeros_like(rows)
    for e in chosen.unique().tolist():
        tokens, place = torch.where(chosen == e)
        slots = step.adapter_of[tokens] if op.attrs["adapted"] and step.adapter_of is not None else None
        gate, up, down = (expert_target(name, e) for name in op.weights)
        x = rows[tokens]
        inner = act(adapted(step, F.linear(x, gates[e]), x, slots, gate))
        inner = inner * adapted(step, F.linear(x, ups[e]), x, slots, up)
        y[tokens] += p[tokens, place, None] * adapted(step, F.linear(inner, downs[e]), inner, slots, down)
    return (y,)


def select(step: Step, op: Op, x: list[Tensor]) -> tuple[Tensor, ...]:
    return (x[0][step.logits_rows],)


def softcap(step: Step, op: Op, x: list[Tensor]) -> tuple[Tensor, ...]:
    return (torch.tanh(x[0] / op.attrs["cap"]) * op.attrs["cap"],)


def lora(step: Step, op: Op, x: list[Tensor]) -> tuple[Tensor, ...]:
    assert step.adapter_of is not None
    slots = step.adapter_of[step.logits_rows] if op.attrs["logits"] else step.adapter_of
    return (adapted(step, x[1], x[0], slots, str(op.attrs["target"])),)


def fused_linear(step: Step, op: Op, x: list[Tensor]) -> tuple[Tensor, ...]:
    pairs = 2 * int(op.attrs["parts"])
    weight, bias = (step.weight(name) for name in (*op.weights[pairs:], "", "")[:2])
    y = linears(step, normalise(x[0], op, weight, bias), op.weights[:pairs])
    if op.attrs["activation"]:
        return (ACTIVATIONS[op.attrs["activation"]](y[0]) * y[1],)
    return (x[1] + y[0],) if op.attrs["residual"] else y


def qk_rope_store(step: Step, op: Op, x: list[Tensor]) -> tuple[Tensor, ...]:
    q, k, v = x[:3]
    q_weight, k_weight = (step.weight(name) for name in (*op.weights, "", "")[:2])
    group = int(op.attrs["head_dim"])
    q, k = normalise(q, op, q_weight, None, group), normalise(k, op, k_weight, None, group)
    if op.attrs["dim"]:
        q, k = rotate(q, x[3], op), rotate(k, x[3], op)
    store(step, op, [k, v])
    return (q,)


RUN: dict[str, Run] = {
    "embed": embed, "embed_positions": embed_positions, "norm": norm, "linear": linear, "angles": angles, "rope": rope,
    "store": store, "attention": attention, "gated": gated, "activation": activation, "add": add, "scale": scale,
    "gate": gate, "moe": moe, "select": select, "softcap": softcap, "fused_linear": fused_linear,
    "qk_rope_store": qk_rope_store, "lora": lora,
}  # fmt: skip
