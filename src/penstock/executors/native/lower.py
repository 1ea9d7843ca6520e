"""From a program to a native plan: each op becomes one call, or several where one call cannot take all its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.errors import UnsupportedError
from penstock.executors.native.extension import extension
from penstock.models.passes.adapters import expert_target
from penstock.models.passes.memory import plan_memory
from penstock.models.program import Op, Program

NormTuple = tuple[str, float, bool, int, int]
NO_NORM: NormTuple = ("none", 0.0, False, -1, -1)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A weight that the native executor holds: its number there (the first of its experts').

    For a matrix, its format; what its inputs are turned into (``f32``, ``bf16`` or ``i8``); and a key that is equal for
    weights whose inputs can be shared.
    """

    number: int
    format: str = ""
    inputs: str = "f32"
    key: str = ""


@dataclass(frozen=True, slots=True)
class Lora:
    """A weight that adapters change: its number among those of the executor, the largest rank of any of them."""

    number: int
    rank: int


@dataclass(frozen=True, slots=True)
class Lowered:
    """A finished native plan; op i of ``program`` is the plan's ops ``spans[i][0]`` to ``spans[i][1]``."""

    program: Program
    plan: Any
    values: Mapping[str, int]
    spans: tuple[tuple[int, int], ...]


def lower(
    core: Any,
    program: Program,
    weights: Mapping[str, Loaded],
    loras: Mapping[str, Lora] | None = None,
) -> Lowered:
    """Build ``program`` on the native executor ``core``.

    ``loras`` are what its ``lora`` ops need to know of each target.
    """
    memory = plan_memory(program)
    plan = extension().Plan(core, memory.token_columns, memory.logits_columns)
    values = {
        name: plan.value(column, program.values[name].width, program.values[name].rows == "logits")
        for name, column in memory.columns.items()
    }
    low = _Lowering(core, plan, program, values, weights, loras or {})
    spans: list[tuple[int, int]] = []
    for op in program.ops:
        first = plan.ops
        LOWER[op.kind](low, op)
        spans.append((first, plan.ops))
    plan.finish(values[program.outputs["logits"]], values[program.outputs["hidden"]])
    return Lowered(program, plan, values, tuple(spans))


def check_supported(program: Program) -> None:
    """Raise ``UnsupportedError`` for ops that this executor does not have."""
    for op in program.ops:
        if op.kind not in LOWER:
            raise UnsupportedError(
                f"the native executor has no '{op.kind}' yet, which {program.name} needs; use --executor torch"
            )


class _Lowering:
    """What the functions below share: names to numbers."""

    def __init__(
        self, core: Any, plan: Any, program: Program, values: Mapping[str, int], weights: Mapping[str, Loaded],
        loras: Mapping[str, Lora],
    ) -> None:  # fmt: skip
        self.core, self.plan, self.program = core, plan, program
        self.values, self.weights, self.loras = values, weights, loras
        self.constants: dict[str, int] = {}

    def weight(self, name: str) -> int:
        return self.weights[name].number if name else -1

    def constant(self, name: Any) -> int:
        if not name:
            return -1
        if name not in self.constants:
            self.constants[name] = self.core.add_vector(np.asarray(self.program.constants[name], np.float32))
        return self.constants[name]

    def norm(self, op: Op, weights: tuple[str, ...]) -> NormTuple:
        a = op.attrs
        if a["norm"] == "none":
            return NO_NORM
        numbers = [self.weight(name) for name in (*weights, "", "")[:2]]
        return (str(a["norm"]), float(a["eps"]), bool(a["plus_one"]), numbers[0], numbers[1])


def _embed(low: _Lowering, op: Op) -> None:
    low.plan.embed(low.weight(op.weights[0]), float(op.attrs["scale"]), low.values[op.outputs[0]])


def _embed_positions(low: _Lowering, op: Op) -> None:
    a, y = op.attrs, low.values[op.outputs[0]]
    low.plan.embed_positions(low.weight(op.weights[0]), int(a["channel"]), int(a["offset"]), y)


def _norm(low: _Lowering, op: Op) -> None:
    x, y = low.values[op.inputs[0]], low.values[op.outputs[0]]
    low.plan.norm(low.norm(op, op.weights), int(op.attrs["group"]), x, y)


def _linear(low: _Lowering, op: Op) -> None:
    fused = op.kind == "fused_linear"
    parts = int(op.attrs["parts"]) if fused else len(op.outputs)
    activation = str(op.attrs["activation"]) if fused else ""
    norm = low.norm(op, op.weights[2 * parts :]) if fused else NO_NORM
    x = low.values[op.inputs[0]]
    residual = low.values[op.inputs[1]] if fused and op.attrs["residual"] else -1
    groups: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
    for i in range(parts):
        matrix, bias = op.weights[2 * i : 2 * i + 2]
        y = low.values[op.outputs[i]] if i < len(op.outputs) else -1
        loaded = low.weights[matrix]
        groups.setdefault((loaded.inputs, loaded.key), []).append((loaded.number, low.weight(bias), y))
    for (inputs, _), members in groups.items():
        for at in range(0, len(members), 4):
            low.plan.linear(norm, inputs, activation, x, residual, members[at : at + 4])


def _angles(low: _Lowering, op: Op) -> None:
    a = op.attrs
    low.plan.angles(
        int(a["channel"]), int(a["dim"]), low.constant(a["inv_freq"]), low.constant(a["inv_freq_long"]),
        float(a["scale"]), float(a["scale_long"]), str(a["length"]), float(a["theta"]), float(a["factor"]),
        int(a["original"]), low.values[op.outputs[0]],
    )  # fmt: skip


def _rotation(op: Op) -> tuple[int, int, int, bool]:
    a = op.attrs
    return (int(a["head_dim"]), int(a["dim"]), int(a["start"]), bool(a["interleaved"]))


def _rope(low: _Lowering, op: Op) -> None:
    low.plan.rope(_rotation(op), *(low.values[name] for name in (*op.inputs, *op.outputs)))


def _store(low: _Lowering, op: Op) -> None:
    low.plan.store(int(op.attrs["layer"]), low.values[op.inputs[0]], low.values[op.inputs[1]])


def _qk_rope_store(low: _Lowering, op: Op) -> None:
    q, k, v = (low.values[name] for name in op.inputs[:3])
    cs = low.values[op.inputs[3]] if op.attrs["dim"] else -1
    norms = (low.norm(op, op.weights[:1]), low.norm(op, op.weights[1:2]))
    low.plan.qk_rope_store(int(op.attrs["layer"]), _rotation(op), *norms, q, k, v, cs, low.values[op.outputs[0]])


def _attention(low: _Lowering, op: Op) -> None:
    a = op.attrs
    low.plan.attention(
        int(a["layer"]), int(a["heads"]), float(a["scale"]), float(a["softcap"]), int(a["window"]), int(a["log_n"]),
        low.constant(a["alibi"]), bool(a["bidirectional"]), low.values[op.inputs[0]], low.values[op.outputs[0]],
    )  # fmt: skip


def _elementwise(low: _Lowering, op: Op) -> None:
    factor = float(op.attrs.get("factor", op.attrs.get("cap", 0.0)))
    a, b = (*(low.values[name] for name in op.inputs), -1)[:2]
    low.plan.elementwise(op.kind, str(op.attrs.get("activation", "")), factor, a, b, low.values[op.outputs[0]])


def _moe(low: _Lowering, op: Op) -> None:
    a = op.attrs
    inputs = tuple(low.weights[name].inputs for name in op.weights)
    low.plan.moe(
        int(a["experts"]), int(a["top_k"]), bool(a["renormalise"]), str(a["activation"]),
        tuple(low.weight(name) for name in op.weights), inputs, *_expert_loras(low, op),
        *(low.values[name] for name in (*op.inputs, *op.outputs)),
    )  # fmt: skip


def _expert_loras(low: _Lowering, op: Op) -> tuple[list[int], int]:
    """The number of each expert's gate, up and down as a target (-1: none) and the largest rank; nothing if no adapter
    changes any."""
    if not op.attrs["adapted"]:
        return [], 0
    experts = range(int(op.attrs["experts"]))
    found = [low.loras.get(expert_target(name, e)) for name in op.weights for e in experts]
    return [-1 if t is None else t.number for t in found], max(t.rank for t in found if t is not None)


def _select(low: _Lowering, op: Op) -> None:
    low.plan.select(low.values[op.inputs[0]], low.values[op.outputs[0]])


def _lora(low: _Lowering, op: Op) -> None:
    target = low.loras[str(op.attrs["target"])]
    low.plan.lora(target.number, target.rank, *(low.values[name] for name in (*op.inputs, *op.outputs)))


LOWER: dict[str, Callable[[_Lowering, Op], None]] = {
    "embed": _embed,
    "embed_positions": _embed_positions,
    "norm": _norm,
    "linear": _linear,
    "fused_linear": _linear,
    "angles": _angles,
    "rope": _rope,
    "store": _store,
    "qk_rope_store": _qk_rope_store,
    "attention": _attention,
    "moe": _moe,
    "select": _select,
    "lora": _lora,
    **dict.fromkeys(("add", "scale", "gated", "activation", "gate", "softcap"), _elementwise),
}
