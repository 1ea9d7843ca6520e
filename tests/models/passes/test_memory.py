"""The memory plan, replayed: whoever reads a value must find it where its maker left it."""

from __future__ import annotations

import pytest
from hypothesis import given

from penstock.models.decoder import build
from penstock.models.passes.fuse import fuse
from penstock.models.passes.memory import ALIGN, MemoryPlan, lifetimes, overwritable, plan_memory
from penstock.models.program import Program
from tests.models.passes.programs import programs
from tests.models.some import ARCHITECTURES


def replay(program: Program, plan: MemoryPlan) -> None:
    """Run the program on columns that remember whose they are."""
    totals = {"tokens": plan.token_columns, "logits": plan.logits_columns}
    owner: dict[tuple[str, int], str] = {}

    def columns(name: str) -> list[tuple[str, int]]:
        value = program.values[name]
        first, width = plan.columns[name], -(-value.width // ALIGN) * ALIGN
        assert first % ALIGN == 0
        assert 0 <= first <= first + width <= totals[value.rows]
        return [(value.rows, c) for c in range(first, first + width)]

    for op in program.ops:
        inputs = [n for n in op.inputs if program.values[n].dtype == "f32"]
        for name in inputs:
            assert all(owner[c] == name for c in columns(name)), f"{name} was overwritten before {op}"
        taken: set[tuple[str, int]] = set()
        for i, name in enumerate(op.outputs):
            mine = set(columns(name))
            assert not mine & taken, f"two outputs of {op} share memory"
            taken |= mine
            for other in inputs:
                allowed = i == 0 and other in overwritable(op) and columns(other) == columns(name)
                assert allowed or not mine & set(columns(other)), f"{op} writes {name} over {other} while it reads it"
            owner.update(dict.fromkeys(columns(name), name))
    for name in program.outputs.values():
        assert all(owner[c] == name for c in columns(name)), f"output {name} was overwritten"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_live_value_is_overwritten(name: str) -> None:
    program = build(ARCHITECTURES[name])
    replay(program, plan_memory(program))
    fused = fuse(program)
    replay(fused, plan_memory(fused))


@given(programs())
def test_no_live_value_is_overwritten_in_any_program(program: Program) -> None:
    replay(program, plan_memory(program))
    fused = fuse(program)
    replay(fused, plan_memory(fused))


def test_memory_does_not_grow_with_layers() -> None:
    llama = ARCHITECTURES["llama"]
    deep = build(type(llama)(**{**{f: getattr(llama, f) for f in llama.__slots__}, "blocks": llama.blocks * 8}))
    assert plan_memory(deep).token_columns == plan_memory(build(llama)).token_columns


def test_a_plan_is_no_larger_than_what_lives_at_once_needs() -> None:
    """A llama block fuses into a chain: the plan meets the lower bound, the widest moment."""
    program = fuse(build(ARCHITECTURES["llama"]))
    spans = lifetimes(program)
    sizes = {n: -(-v.width // ALIGN) * ALIGN for n, v in program.values.items() if v.rows == "tokens"}
    widest = max(
        sum(sizes[n] for n, (first, last) in spans.items() if n in sizes and first <= i <= last)
        - sum(sizes[n] for n in overwritable(op)[:1] if spans[n][1] == i and op.outputs)
        for i, op in enumerate(program.ops)
    )
    assert plan_memory(program).token_columns == widest


def test_sizes_in_bytes() -> None:
    assert MemoryPlan({}, 32, 16).nbytes(10, 3) == 4 * (320 + 48)
