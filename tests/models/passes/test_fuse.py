"""What is fused, what is left alone, and that a fused program means the same."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given

from penstock.models.decoder import build
from penstock.models.passes.fuse import fuse, matrices
from penstock.models.program import Op, Program, Value, WeightSpec, check
from tests.models.passes.programs import NORM, programs
from tests.models.some import ARCHITECTURES


def kinds(program: Program) -> list[str]:
    return [op.kind for op in program.ops]


def weights_used(program: Program) -> Counter[str]:
    return Counter(n for op in program.ops for n in op.weights if n)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_fused_program_is_sound_and_uses_every_weight_as_often(name: str) -> None:
    program = build(ARCHITECTURES[name])
    fused = fuse(program)
    check(fused)
    assert fused.outputs == program.outputs
    assert weights_used(fused) == weights_used(program)
    assert len(fused.ops) <= len(program.ops)
    assert fuse(fused) == fused, "nothing is left to fuse"


@given(programs())
def test_any_program_stays_sound(program: Program) -> None:
    fused = fuse(program)
    check(fused)
    assert fused.outputs == program.outputs
    assert weights_used(fused) == weights_used(program)


def test_a_llama_block_becomes_six_ops() -> None:
    fused = kinds(fuse(build(ARCHITECTURES["llama"])))
    fused.remove("angles")  # once, before the first rotation
    block = ["fused_linear", "qk_rope_store", "attention", "fused_linear", "fused_linear", "fused_linear"]
    assert fused == ["embed", *block, *block, "norm", "select", "linear"]
    ops = [op for op in fuse(build(ARCHITECTURES["llama"])).ops if op.kind == "fused_linear"][:4]
    assert [(op.attrs["parts"], op.attrs["norm"], op.attrs["residual"], op.attrs["activation"]) for op in ops] == [
        (3, "rms", False, ""), (1, "none", True, ""), (2, "rms", False, "silu"), (1, "none", True, ""),
    ]  # fmt: skip


def test_norm_per_head_goes_into_the_rotation() -> None:
    fused = fuse(build(ARCHITECTURES["qk norm"]))
    heads = [op for op in fused.ops if op.kind == "qk_rope_store"]
    assert [op.attrs["norm"] for op in heads] == ["rms", "rms"]
    assert heads[0].weights == ("layers.0.attn.q_norm.weight", "layers.0.attn.k_norm.weight")
    assert "rope" not in kinds(fused)


def test_a_norm_of_the_whole_row_of_q_stays() -> None:
    fused = fuse(build(ARCHITECTURES["qk norm of the whole"]))
    assert kinds(fused).count("norm") == 2 * 2 + 1
    assert kinds(fused).count("qk_rope_store") == 2


def test_of_two_rotations_the_last_is_fused() -> None:
    fused = kinds(fuse(build(ARCHITECTURES["two ropes"])))
    assert fused.count("rope") == 4
    assert fused.count("qk_rope_store") == 2


def test_without_rotation_store_stays() -> None:
    fused = kinds(fuse(build(ARCHITECTURES["alibi"])))
    assert fused.count("store") == 2
    assert "qk_rope_store" not in fused


def test_a_norm_that_two_read_stays() -> None:
    """Parallel residual with one norm: attention and mlp read it."""
    fused = fuse(build(ARCHITECTURES["parallel shared"]))
    assert kinds(fused).count("norm") == 2 + 1


def tiny(ops: list[Op], widths: dict[str, int], outputs: dict[str, str]) -> Program:
    values = {"ids": Value("ids", 1, dtype="i32"), **{n: Value(n, w) for n, w in widths.items()}}
    weights = {
        "table": WeightSpec("table", (9, 16), "matrix"),
        **{n: WeightSpec(n, (16, 16), "matrix") for n in "abcdef"},
        "n": WeightSpec("n", (16,), "vector"),
    }
    program = Program(
        "tiny", (Op("embed", ("ids",), ("x",), ("table",), {"scale": 1.0}), *ops), values, weights, (), outputs
    )
    check(program)
    return program


def linear(x: str, y: str, *weights: str) -> Op:
    return Op("linear", (x,), tuple(y.split()), tuple(n for w in weights for n in (w, "")))


WIDTHS = dict.fromkeys(["x", "y", "z", "s", "t", "u"], 16)


def test_linears_of_one_input_become_one_at_most_four() -> None:
    ops = [linear("x", n, w) for n, w in zip(["y", "z", "s", "t", "u"], "abcde", strict=True)]
    fused = fuse(tiny(ops, WIDTHS, {"hidden": "u"}))
    assert [op.outputs for op in fused.ops[1:]] == [("y", "z", "s", "t"), ("u",)]


def test_linears_of_other_formats_stay_apart() -> None:
    program = tiny([linear("x", "y", "a"), linear("x", "z", "b")], WIDTHS, {"hidden": "z"})
    assert len(fuse(program, lambda names: len(names) == 1).ops) == 3
    gate = tiny(
        [linear("x", "y z", "a", "b"), Op("gated", ("y", "z"), ("s",), (), {"activation": "silu"})],
        WIDTHS,
        {"hidden": "s"},
    )
    assert kinds(fuse(gate, lambda names: len(set(names)) == 1)) == ["embed", "linear", "gated"]
    assert kinds(fuse(gate)) == ["embed", "fused_linear"]


def test_a_value_read_twice_or_given_out_is_not_swallowed() -> None:
    gated = Op("gated", ("y", "z"), ("s",), (), {"activation": "silu"})
    add = Op("add", ("s", "y"), ("t",), (), {})
    twice = tiny([linear("x", "y z", "a", "b"), gated, add], WIDTHS, {"hidden": "t"})
    assert kinds(fuse(twice)) == kinds(twice)
    norm = Op("norm", ("x",), ("y",), ("n", ""), NORM)
    given_out = tiny([norm, linear("y", "z", "a")], WIDTHS, {"hidden": "y", "logits": "z"})
    assert kinds(fuse(given_out)) == kinds(given_out)


def test_gate_and_up_leave_a_third_linear_of_their_input() -> None:
    gated = Op("gated", ("y", "z"), ("s",), (), {"activation": "gelu"})
    fused = fuse(tiny([linear("x", "y t z", "a", "b", "c"), gated], WIDTHS, {"hidden": "s", "logits": "t"}))
    assert [(op.kind, matrices(op)) for op in fused.ops[1:3]] == [("linear", ("b",)), ("fused_linear", ("a", "c"))]


def test_either_side_of_an_addition_may_be_the_linear() -> None:
    for inputs in (("x", "y"), ("y", "x")):
        fused = fuse(tiny([linear("x", "y", "a"), Op("add", inputs, ("z",), (), {})], WIDTHS, {"hidden": "z"}))
        assert kinds(fused) == ["embed", "fused_linear"]
        assert fused.ops[1].inputs == ("x", "x")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_plain_executor_gives_the_same_logits(name: str) -> None:
    pytest.importorskip("torch")
    from penstock.executors.torch.executor import TorchExecutor
    from tests.executors.torch.test_executor import IDS, weights
    from tests.harness import Runner, limits

    program = build(ARCHITECTURES[name])
    logits = []
    for each in (program, fuse(program)):
        executor = TorchExecutor(each, limits(), threads=1)
        executor.load(weights(program))
        logits.append(Runner(executor, ARCHITECTURES[name].position_channels).prefill(IDS, [4, 3]))
    np.testing.assert_allclose(logits[1], logits[0], rtol=1e-5, atol=1e-5)
