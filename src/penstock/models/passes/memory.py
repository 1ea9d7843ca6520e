"""Where values lie: liveness, then offsets in two arenas (rows: tokens, or rows of logits), used again and again.

Offsets are columns: a value takes ``width`` columns, rounded up to 16 floats, and lies at ``column * rows`` floats, so
that a step of few rows touches little memory.

    op        0    1    2    3    4
    a         |---------|                 an interval reaches from the op that gives a value to the last that reads it;
    b              |----|                 values whose intervals meet never share columns, unless an op may write over
    c                   |----|            an input that dies there: then both are one buffer (a, c here).

Buffers are placed largest first at the lowest free column (greedy by size: Pisarchyk and Lee 2020, arXiv 2001.03288).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.models.program import Op, Program, Rows

ALIGN = 16
ELEMENTWISE = frozenset({"add", "gated", "activation", "scale", "gate", "softcap"})


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Column of each float value, and how many columns the two arenas have."""

    columns: Mapping[str, int]
    token_columns: int
    logits_columns: int

    def nbytes(self, max_tokens: int, max_logits_rows: int) -> int:
        """Bytes of both arenas at most."""
        return 4 * (self.token_columns * max_tokens + self.logits_columns * max_logits_rows)


@dataclass(slots=True)
class _Buffer:
    """Values that share columns, one after the other; live from op ``first`` to op ``last``."""

    names: list[str]
    size: int
    first: int
    last: int
    column: int = -1

    def meets(self, other: _Buffer) -> bool:
        return self.first <= other.last and other.first <= self.last


def plan_memory(program: Program) -> MemoryPlan:
    """Columns for every float value that an op gives. Outputs of the program live to its end."""
    columns: dict[str, int] = {}
    totals: dict[Rows, int] = {"tokens": 0, "logits": 0}
    buffers = _buffers(program)
    for rows in totals:
        placed: list[_Buffer] = []
        mine = [b for b in buffers if program.values[b.names[0]].rows == rows]
        for buffer in sorted(mine, key=lambda b: (-b.size, b.first)):
            _place(buffer, placed)
            placed.append(buffer)
            totals[rows] = max(totals[rows], buffer.column + buffer.size)
            columns.update(dict.fromkeys(buffer.names, buffer.column))
    return MemoryPlan(columns, totals["tokens"], totals["logits"])


def lifetimes(program: Program) -> dict[str, tuple[int, int]]:
    """(op that gives it, last op that reads it) of every float value."""
    spans: dict[str, tuple[int, int]] = {}
    for i, op in enumerate(program.ops):
        for name in op.inputs:
            if name in spans:
                spans[name] = (spans[name][0], i)
        spans.update((name, (i, i)) for name in op.outputs)
    for name in program.outputs.values():
        spans[name] = (spans[name][0], len(program.ops))
    return spans


def overwritable(op: Op) -> tuple[str, ...]:
    """Inputs that the op's first output may lie on: each element is read before it is written, by the same thread."""
    if op.kind in ELEMENTWISE:
        return op.inputs
    if op.kind == "qk_rope_store":
        return op.inputs[:1]
    if op.kind == "lora":
        return op.inputs[1:]
    if op.kind == "fused_linear" and op.attrs["residual"]:
        return op.inputs[1:2]
    return ()


def _buffers(program: Program) -> list[_Buffer]:
    spans = lifetimes(program)
    of: dict[str, _Buffer] = {}
    for i, op in enumerate(program.ops):
        for at, name in enumerate(op.outputs):
            value, (first, last) = program.values[name], spans[name]
            size = -(-value.width // ALIGN) * ALIGN
            for old in overwritable(op) if at == 0 else ():
                before = program.values[old]
                fits = before.width == value.width and before.rows == value.rows
                if fits and old in of and of[old].last == i and op.inputs.count(old) == 1:
                    of[name] = of[old]
                    of[name].names.append(name)
                    of[name].last = last
                    break
            else:
                of[name] = _Buffer([name], size, first, last)
    return list({id(b): b for b in of.values()}.values())


def _place(buffer: _Buffer, placed: list[_Buffer]) -> None:
    """The lowest gap that is wide enough among the buffers that live at the same time."""
    column = 0
    for other in sorted((b for b in placed if b.meets(buffer)), key=lambda b: b.column):
        if other.column - column >= buffer.size:
            break
        column = max(column, other.column + other.size)
    buffer.column = column
