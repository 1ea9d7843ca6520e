"""Fusions that pay on a CPU: fewer barriers, and activations that stay in cache. Values keep their names and bits.

    gated(linear, linear)                      fused_linear {activation}
    add(x, linear)                             fused_linear {residual}
    linears of one input                       one op with several outputs
    norm + the one linear op that reads it     fused_linear {norm}
    (norm +) rope of q and k + store           qk_rope_store

A pattern that is not known here is left as it is. Every step keeps the program in order: an op moves only to a place
where all it reads is there and nothing has read what it gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from penstock.models.passes.fuse_heads import fuse_heads
from penstock.models.program import Op, Program, Scalar

MAX_PARTS = 4
SameFormat = Callable[[tuple[str, ...]], bool]
"""Whether these weights may share one op (they are stored, and multiplied, in the same way)."""

PLAIN: dict[str, Scalar] = {
    "parts": 1, "norm": "none", "eps": 0.0, "plus_one": False, "residual": False, "activation": "",
}  # fmt: skip


def fuse(program: Program, same_format: SameFormat = lambda names: True) -> Program:
    """All fusions. The outputs of the program keep their names; values that nobody else reads may vanish."""
    program = fuse_heads(program)
    program = fuse_gated(program, same_format)
    program = fuse_residual(program)
    program = merge_linears(program, same_format)
    return fuse_norm(program)


def uses(program: Program) -> Counter[str]:
    """How often each value is read, by ops or as an output of the program."""
    return Counter([n for op in program.ops for n in op.inputs] + list(program.outputs.values()))


def producers(program: Program) -> dict[str, int]:
    """Index of the op that gives each value."""
    return {name: i for i, op in enumerate(program.ops) for name in op.outputs}


def matrices(op: Op) -> tuple[str, ...]:
    """The matrices of a linear, without biases and norm."""
    parts = int(op.attrs["parts"]) if op.kind == "fused_linear" else len(op.outputs)
    return op.weights[: 2 * parts : 2]


def fuse_gated(program: Program, same_format: SameFormat) -> Program:
    """gated(gate, up) of two linears of one input, each read by nobody else."""
    ops: list[Op | None] = list(program.ops)
    count, made_by = uses(program), producers(program)
    for i, op in enumerate(program.ops):
        if op.kind != "gated" or op.inputs[0] == op.inputs[1]:
            continue
        pairs: list[str] = []
        sources = [made_by.get(name, -1) for name in op.inputs]
        makers = [ops[s] if s >= 0 else None for s in sources]
        for name, maker in zip(op.inputs, makers, strict=True):
            if maker is not None and maker.kind == "linear" and count[name] == 1:
                at = maker.outputs.index(name)
                pairs += maker.weights[2 * at : 2 * at + 2]
        if len(pairs) != 4 or makers[0] is None or makers[1] is None or makers[0].inputs != makers[1].inputs:
            continue
        if program.weights[pairs[0]].shape != program.weights[pairs[2]].shape or not same_format((pairs[0], pairs[2])):
            continue
        attrs = {**PLAIN, "parts": 2, "activation": op.attrs["activation"]}
        ops[i] = Op("fused_linear", makers[0].inputs, op.outputs, tuple(pairs), attrs)
        for name, source in zip(op.inputs, sources, strict=True):
            ops[source] = _without(ops[source], name)
    return program.with_ops(tuple(op for op in ops if op is not None))


def _without(op: Op | None, output: str) -> Op | None:
    """A linear without one of its outputs; None when it was the last one."""
    if op is None or len(op.outputs) == 1:
        return None
    at = op.outputs.index(output)
    return replace(
        op,
        outputs=op.outputs[:at] + op.outputs[at + 1 :],
        weights=op.weights[: 2 * at] + op.weights[2 * at + 2 :],
    )


def fuse_residual(program: Program) -> Program:
    """add(x, y) where y is the only output of a linear and read by nobody else; either side may be the linear."""
    ops: list[Op | None] = list(program.ops)
    count, made_by = uses(program), producers(program)
    for i, op in enumerate(program.ops):
        if op.kind != "add" or op.inputs[0] == op.inputs[1]:
            continue
        for name, other in (op.inputs[::-1], op.inputs):
            source = made_by.get(name, -1)
            linear = ops[source] if source >= 0 else None
            if linear is None or linear.kind != "linear" or len(linear.outputs) != 1 or count[name] != 1:
                continue
            attrs = {**PLAIN, "residual": True}
            ops[i] = Op("fused_linear", (*linear.inputs, other), op.outputs, linear.weights, attrs)
            ops[source] = None
            break
    return program.with_ops(tuple(op for op in ops if op is not None))


def merge_linears(program: Program, same_format: SameFormat) -> Program:
    """Plain linears of one input become one op, at the place of the first, of at most MAX_PARTS outputs."""
    ops: list[Op | None] = []
    open_at: dict[str, int] = {}
    for op in program.ops:
        if op.kind != "linear":
            ops.append(op)
            continue
        at = open_at.get(op.inputs[0], -1)
        first = ops[at] if at >= 0 else None
        if (
            first is not None
            and len(first.outputs) + len(op.outputs) <= MAX_PARTS
            and same_format((*matrices(first), *matrices(op)))
        ):
            ops[at] = replace(first, outputs=first.outputs + op.outputs, weights=first.weights + op.weights)
            continue
        open_at[op.inputs[0]] = len(ops)
        ops.append(op)
    return program.with_ops(tuple(op for op in ops if op is not None))


def fuse_norm(program: Program) -> Program:
    """A norm of whole rows whose result one linear op reads, as its input, and nobody else."""
    ops: list[Op | None] = list(program.ops)
    count = uses(program)
    for i, op in enumerate(program.ops):
        if op.kind != "norm" or op.attrs["group"] != 0 or count[op.outputs[0]] != 1:
            continue
        reader = next(program.consumers(op.outputs[0]), -1)
        linear = ops[reader] if reader >= 0 else None
        if linear is None or linear.kind not in ("linear", "fused_linear") or linear.inputs[0] != op.outputs[0]:
            continue
        if linear.kind == "fused_linear" and linear.attrs["norm"] != "none":
            continue
        base = linear.attrs if linear.kind == "fused_linear" else {**PLAIN, "parts": len(linear.outputs)}
        attrs = {**base, "norm": op.attrs["norm"], "eps": op.attrs["eps"], "plus_one": op.attrs["plus_one"]}
        weights = (*linear.weights, *op.weights)
        ops[reader] = Op("fused_linear", (op.inputs[0], *linear.inputs[1:]), linear.outputs, weights, attrs)
        ops[i] = None
    return program.with_ops(tuple(op for op in ops if op is not None))
