"""Low-rank adapters as ops of the program: behind each linear that an adapter may change stands a ``lora``.

    q, k = linear(x, %q, %k)        q.base, k = linear(x, %q, %k)
                                    q = lora(x, q.base) {target=q}

Values keep their names, so whoever read ``q`` reads the adapted one. Linears without a ``lora`` are fused as ever; the
others are not, since what they give is read by an op that no fusion knows.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from penstock.models.program import Op, Program, Value


def linear_shapes(program: Program) -> dict[str, tuple[int, int]]:
    """The weights that an adapter can change: [n, k] of every matrix that a linear multiplies with."""
    names = [name for op in program.ops if op.kind == "linear" for name in op.weights[::2]]
    return {name: (program.weights[name].shape[0], program.weights[name].shape[1]) for name in names}


def attach_adapters(program: Program, targets: Collection[str]) -> Program:
    """``program`` with a ``lora`` op behind every linear of ``targets``, weights by canonical name.

    To be run before fusing. Raises ``ValueError`` for a target that no linear has.
    """
    unknown = set(targets) - linear_shapes(program).keys()
    if unknown:
        raise ValueError(f"no linear has the weights {', '.join(sorted(unknown))}")
    ops: list[Op] = []
    values: dict[str, Value] = {}
    for op in program.ops:
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
