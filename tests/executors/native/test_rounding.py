"""Weights rounded while they are packed: the bits of the reference, from any plain type on every instruction set."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from penstock import _native
from penstock.executors.native.executor import NativeExecutor
from penstock.models.decoder import build
from penstock.models.program import Program, WeightSpec
from penstock.quant.onthefly import converter
from penstock.quant.rounding import PLAIN, rounded
from penstock.quant.scheme import WeightData
from tests.executors.native.some import DTYPES, IDS
from tests.harness import F32, Runner, limits, open_arch
from tests.helpers import golden

ISAS = _native.possible_isas()
Stream = Iterator[tuple[WeightSpec, WeightData]]


def weights(program: Program, fmt: str, method: str, group: int, scale: float, at_once: bool) -> Stream:
    """Random weights with flat groups and outliers among them, to be rounded or rounded by the reference."""
    rng, convert = np.random.default_rng(0), converter(method, group)
    for spec in program.weights.values():
        kind = "f32" if spec.kind == "vector" else fmt
        array = rng.standard_normal(spec.shape).astype(np.float32) * np.float32(0.3)
        if spec.kind != "vector":
            array.reshape(-1)[:64] = 0.25
            array.reshape(-1)[64:96] = 0
            array.reshape(-1)[100] = 9
            array *= np.float32(scale)
        data = convert(spec, WeightData(kind, spec.shape, {"weight": array.astype(DTYPES[kind])}))
        yield spec, rounded(data) if at_once else data


def logits(name: str, isa: str, fmt: str, method: str, group: int, scale: float, *, at_once: bool) -> F32:
    program = build(open_arch(golden(name) / "ckpt"))
    executor = NativeExecutor(program, limits(blocks=24), threads=2, isa=isa, compute="f32")
    executor.load(weights(program, fmt, method, group, scale, at_once))
    assert at_once or any(kind.startswith("int") for kind in executor.info.details["weights"].split())
    return Runner(executor).prefill(IDS)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("fmt", DTYPES)
@pytest.mark.parametrize(("method", "group"), [("int8", 32), ("int8", 128), ("int4", 32), ("int4", 64)])
def test_the_references_bits(method: str, group: int, fmt: str, isa: str) -> None:
    made = logits("llama_gqa", isa, fmt, method, group, 1.0, at_once=False)
    assert np.array_equal(made, logits("llama_gqa", isa, fmt, method, group, 1.0, at_once=True))


@pytest.mark.parametrize("name", ["mixtral", "gpt2"])
def test_experts_and_odd_rows(name: str) -> None:
    made = logits(name, ISAS[-1], "bf16", "int4", 32, 1.0, at_once=False)
    assert np.array_equal(made, logits(name, ISAS[-1], "bf16", "int4", 32, 1.0, at_once=True))


@pytest.mark.parametrize("scale", [1e-9, 1e9])
@pytest.mark.parametrize("method", ["int8", "int4"])
def test_scales_that_float16_does_not_hold(method: str, scale: float) -> None:
    made = logits("llama_gqa", ISAS[-1], "f32", method, 32, scale, at_once=False)
    assert np.isfinite(made).all()
    assert np.array_equal(made, logits("llama_gqa", ISAS[-1], "f32", method, 32, scale, at_once=True))


def test_memory_is_five_bits_a_weight() -> None:
    program = build(open_arch(golden("llama_gqa") / "ckpt"))
    spec = WeightSpec("layers.0.attn.q.weight", (256, 512), "matrix")
    data = WeightData(
        "f32", spec.shape, {"weight": np.random.default_rng(0).normal(size=spec.shape).astype(np.float32)}
    )
    taken = []
    for method in ("int4", "int8"):
        core = NativeExecutor(program, limits(blocks=24), threads=1)._core
        made = converter(method)(spec, data)
        assert PLAIN in made.arrays
        group = int(made.params["group"])
        core.add_rounded("f32", made.arrays[PLAIN], int(method[-1]), group)
        taken.append(8 * core.weight_bytes / (256 * 512))
    assert taken == [5.0, 8.125]


@pytest.mark.parametrize(("bits", "group", "why"), [(3, 32, "8 or 4 bits"), (8, 24, "do not fit"), (4, 0, "do not fit"),
                                                    (4, 4, "multiple of 8")])  # fmt: skip
def test_what_cannot_be(bits: int, group: int, why: str) -> None:
    core = NativeExecutor(build(open_arch(golden("llama_gqa") / "ckpt")), limits(blocks=24), threads=1)._core
    with pytest.raises(ValueError, match=why):
        core.add_rounded("f32", np.zeros((3, 64), np.float32), bits, group)
