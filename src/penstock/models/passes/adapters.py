"""Low-rank adapters as ops of the program: behind each linear that an adapter may change stands a ``lora``.

    q, k = linear(x, %q, %k)        q.base, k = linear(x, %q, %k)
                                    q = lora(x, q.base) {target=q}

Values keep their names, so whoever read ``q`` reads the adapted one. Linears without a ``lora`` are fused as ever; the
others are not, since what they give is read by an op that no fusion knows.

The linears of a mixture's experts are targets of their own, ``layers.0.moe.gate.weight[5]``. What is added to them is
added inside the op ``moe``, which is marked.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from penstock.models.program import Op, Program, Value


def linear_shapes(program: Program) -> dict[str, tuple[int, int]]:
    """The weights that an adapter can change: [n, k] of every matrix that a linear, or an expert, multiplies with."""
    shapes: dict[str, tuple[int, int]] = {}
    for op in program.ops:
        if op.kind == "linear":
            for name in op.weights[::2]:
                n, k = program.weights[name].shape
                shapes[name] = (n, k)
        elif op.kind == "moe":
            for name in op.weights:
                experts, n, k = program.weights[name].shape
                shapes |= {expert_target(name, e): (n, k) for e in range(experts)}
    return shapes


def expert_target(weight: str, expert: int) -> str:
    """What one expert's matrix of the stack ``weight`` is called as a target."""
    return f"{weight}[{expert}]"


def attach_adapters(program: Program, targets: Collection[str]) -> Program:
    """``program`` with a ``lora`` op behind every linear of ``targets``, and every ``moe`` marked whose experts are
    among them; weights by canonical name.

    To be run before fusing. Raises ``ValueError`` for a target that no linear has.
    """
    unknown = set(targets) - linear_shapes(program).keys()
    if unknown:
        raise ValueError(f"no linear has the weights {', '.join(sorted(unknown))}")
    stacks = {target.rpartition("[")[0] for target in targets}
    ops: list[Op] = []
    values: dict[str, Value] = {}
    for op in program.ops:
        if op.kind == "moe" and not stacks.isdisjoint(op.weights):
            ops.append(replace(op, attrs={**op.attrs, "adapted": True}))
            continue
        chosen = {
            name: target
            for name, target in zip(op.outputs, op.weights[::2] if op.kind == "linear" else ())
            if target in targets
        }
        if not chosen:
            ops.append(op)
            continue
        ops.append(replace(op, outputs=tuple(base(name) if name in chosen else name for name in op.outputs)))
        for name, target in chosen.items():
            value = program.values[name]
            values[base(name)] = replace(value, name=base(name))
            attrs = {"target": target, "logits": value.rows == "logits"}
            ops.append(Op("lora", (op.inputs[0], base(name)), (name,), (), attrs))
    return program.with_ops(tuple(ops), values)


def base(name: str) -> str:
    """What a linear's output is called where an adapter's output takes its name."""
    return f"{name}.base"
