"""The pass that puts adapters into a program."""

from __future__ import annotations

import pytest

from penstock.models.decoder import build
from penstock.models.passes.adapters import attach_adapters, base, expert_target, linear_shapes
from penstock.models.passes.fuse import fuse
from penstock.models.passes.memory import plan_memory
from penstock.models.program import Program, check
from tests.models.some import ARCHITECTURES


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_linear_can_have_one(name: str) -> None:
    program = build(ARCHITECTURES[name])
    targets = linear_shapes(program)
    made = attach_adapters(program, targets)
    check(made)
    loras = [op for op in made.ops if op.kind == "lora"]
    linears = [op for op in program.ops if op.kind == "linear"]
    assert len(loras) == sum(len(op.outputs) for op in linears)
    assert made.outputs == program.outputs
    mixtures = [op for op in made.ops if op.kind == "moe"]
    experts = {expert_target(weight, e) for op in mixtures for weight in op.weights for e in range(op.attrs["experts"])}
    assert {op.attrs["target"] for op in loras} | experts == set(targets)
    assert all(op.attrs["adapted"] for op in mixtures)
    for op in loras:
        assert op.inputs[1] == base(op.outputs[0])
        n, k = targets[op.attrs["target"]]
        assert (made.values[op.inputs[0]].width, made.values[op.outputs[0]].width) == (k, n)
        assert op.attrs["logits"] == (made.values[op.outputs[0]].rows == "logits")
    assert Program.from_json(made.to_json()) == made


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_fusing_leaves_adapted_linears_to_be_read(name: str) -> None:
    program = build(ARCHITECTURES[name])
    for targets in (set(linear_shapes(program)), {"layers.0.attn.q.weight"}, {"layers.1.attn.o.weight"}):
        fused = fuse(attach_adapters(program, targets))
        check(fused)
        made_by = {out: op for op in fused.ops for out in op.outputs}
        for op in (op for op in fused.ops if op.kind == "lora"):
            maker = made_by[op.inputs[1]]
            assert op.attrs["target"] in maker.weights
            assert maker.kind == "linear" or (not maker.attrs["residual"] and not maker.attrs["activation"])
            if maker.kind == "fused_linear":  # what the linear reads is what the adapter reads
                assert maker.attrs["norm"] == "none"


def test_the_rest_is_fused_as_ever() -> None:
    program = build(ARCHITECTURES["llama"])
    plain, adapted = fuse(program), fuse(attach_adapters(program, {"layers.0.attn.q.weight"}))
    assert [str(op) for op in plain.ops if "layers.1" in str(op)] == [
        str(op) for op in adapted.ops if "layers.1" in str(op)
    ]
    assert len(adapted.ops) == len(plain.ops) + 2  # the adapter, and the norm that two now read


def test_its_output_lies_on_what_it_adds_to() -> None:
    program = attach_adapters(build(ARCHITECTURES["llama"]), {"layers.0.attn.q.weight", "head.weight"})
    columns = plan_memory(program).columns
    for op in (op for op in program.ops if op.kind == "lora"):
        assert columns[op.outputs[0]] == columns[op.inputs[1]]


@pytest.mark.parametrize("part", ["gate", "up", "down"])
def test_one_expert_marks_its_mixture_only(part: str) -> None:
    program = build(ARCHITECTURES["shared expert"])
    made = attach_adapters(program, {f"layers.1.moe.{part}.weight[4]"})
    check(made)
    marked = [op for op in made.ops if op.kind == "moe" and op.attrs["adapted"]]
    assert [op.weights[0] for op in marked] == ["layers.1.moe.gate.weight"]
    assert [op.kind for op in made.ops] == [op.kind for op in program.ops]
    assert Program.from_json(made.to_json()) == made
    shapes = linear_shapes(program)
    assert shapes[f"layers.1.moe.{part}.weight[4]"] == ((16, 6) if part == "down" else (6, 16))
    for absent in ("[5]", "[-1]", "[04]", ""):
        with pytest.raises(ValueError, match="no linear has the weights"):
            attach_adapters(program, {f"layers.1.moe.{part}.weight{absent}"})


def test_no_targets_change_nothing() -> None:
    program = build(ARCHITECTURES["llama"])
    assert attach_adapters(program, ()) == program


@pytest.mark.parametrize("target", ["layers.9.attn.q.weight", "embed.weight", "final_norm.weight", ""])
def test_a_target_that_no_linear_has(target: str) -> None:
    with pytest.raises(ValueError, match="no linear has the weights"):
        attach_adapters(build(ARCHITECTURES["llama"]), {target})
