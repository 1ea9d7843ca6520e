"""int8 and int4 made at load: the error is small, the search pays, and what must stay plain does."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.checkpoints.folder import Checkpoint
from penstock.checkpoints.load import stream_weights
from penstock.models.decoder import build
from penstock.models.program import WeightSpec
from penstock.models.registry import resolve
from penstock.quant.dequantise import dequantise
from penstock.quant.detect import detect
from penstock.quant.formats import check
from penstock.quant.onthefly import converter, error_of, quantise
from penstock.quant.scheme import WeightData
from tests.helpers import golden


def weight(*shape: int, seed: int = 0, dtype: Any = np.float32) -> WeightData:
    array = np.random.default_rng(seed).standard_normal(shape).astype(np.float32).astype(dtype)
    name = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[array.dtype.name]
    return WeightData(name, shape, {"weight": array})


def rounded_to_nearest(data: WeightData, group: int) -> float:
    """The error of int4 between the extremes of each group, without a search."""
    w = dequantise(data).reshape(data.shape[0], -1, group)
    low = w.min(axis=2, keepdims=True)
    step = (w.max(axis=2, keepdims=True) - low) / 15
    made = np.rint((w - low) / step) * step + low
    return float(np.sqrt(np.square(w - made).mean() / np.square(w).mean()))


@pytest.mark.parametrize(("bits", "group", "most"), [(8, 32, 0.006), (8, 128, 0.0075), (4, 32, 0.074), (4, 64, 0.086),
                                                     (4, 128, 0.096)])  # fmt: skip
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_errors_of_normal_weights(bits: int, group: int, most: float, dtype: Any) -> None:
    data = weight(96, 512, dtype=dtype)
    made = check(quantise(data, bits, group), "w")
    assert (made.format, made.params["group"]) == (f"int{bits}", group)
    assert most / 3 < error_of(data, made) < most
    if bits == 4:
        assert error_of(data, made) < 0.97 * rounded_to_nearest(data, group), "the search pays"


def test_outliers_cost_their_group_only() -> None:
    data = weight(8, 256)
    data.arrays["weight"][:, 7] = 50.0
    for bits in (4, 8):
        made = dequantise(quantise(data, bits, 32))
        assert np.abs(made - data.arrays["weight"])[:, 32:].max() < 0.25


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([4, 8]), st.sampled_from([0.0, 1e-12, 1.0, 1e12]), st.booleans())
def test_any_numbers_give_finite_ones_in_range(seed: int, bits: int, scale: float, flat: bool) -> None:
    random = np.random.default_rng(seed)
    array = (np.full((3, 64), random.normal()) if flat else random.normal(size=(3, 64))) * scale
    data = WeightData("f32", (3, 64), {"weight": array.astype(np.float32)})
    with np.errstate(all="ignore"):
        found = dequantise(check(quantise(data, bits, 32), "w"))
    assert np.isfinite(found).all()
    width = np.ptp(data.arrays["weight"]) + 1e-30 if bits == 4 else np.abs(data.arrays["weight"]).max()
    assert np.abs(found - data.arrays["weight"]).max() <= 0.2 * width + 1e-3 * scale  # float16's own precision


@pytest.mark.parametrize(("k", "bits", "expected"), [(96, 4, ("int4", 32)), (192, 4, ("int4", 64)),
                                                     (172, 4, ("int8", 172)), (172, 8, ("int8", 172)),
                                                     (64, 8, ("int8", 64))])  # fmt: skip
def test_rows_that_groups_do_not_divide(k: int, bits: int, expected: tuple[str, int]) -> None:
    data = weight(5, k)
    made = check(quantise(data, bits, 64 if k == 192 else 128), "w")
    assert (made.format, made.params["group"]) == expected
    assert error_of(data, made) < 0.11


def test_experts_and_many_chunks() -> None:
    data = weight(3, 700, 256)
    made = check(quantise(data, 4, 32), "w")
    assert made.arrays["scales"].shape == (3, 700, 8)
    one = quantise(WeightData("f32", (700, 256), {"weight": data.arrays["weight"][2]}), 4, 32)
    assert np.array_equal(dequantise(made)[2], dequantise(one))


@pytest.mark.parametrize(
    ("name", "kind", "wish", "expected"),
    [
        ("layers.0.attn.q.weight", "matrix", "int4", "int4"), ("layers.0.attn.q.weight", "matrix", "int8", "int8"),
        ("layers.0.moe.up.weight", "experts", "int4", "int4"), ("head.weight", "matrix", "int4", "int8"),
        ("embed.weight", "matrix", "int4", "int8"), ("embed.weight", "table", "int4", "f32"),
        ("layers.0.attn_norm.weight", "vector", "int8", "f32"), ("layers.0.moe.router.weight", "matrix", "int8", "f32"),
        ("layers.0.moe.shared_gate.weight", "matrix", "int8", "f32"),
    ],
)  # fmt: skip
def test_what_is_converted(name: str, kind: Any, wish: str, expected: str) -> None:
    data = weight(*{"vector": (64,), "experts": (2, 32, 64)}.get(kind, (32, 64)))
    assert converter(wish)(WeightSpec(name, data.shape, kind), data).format == expected


@pytest.mark.parametrize("family", ["llama_gqa", "qwen2", "mixtral", "gpt2"])
def test_a_whole_model(family: str) -> None:
    with Checkpoint.open(golden(family) / "ckpt") as checkpoint:
        facts = resolve(checkpoint.config)
        architecture = facts.architecture(checkpoint.config)
        assert checkpoint.weights is not None
        found = detect(checkpoint.config, checkpoint.weights, "weight_only_int8")
        assert found.method == "int8"
        rules = facts.rules(architecture, checkpoint.config)
        program = build(architecture)
        plain = {spec.name: dequantise(data) for spec, data in stream_weights(checkpoint, program, rules)}
        stream = stream_weights(checkpoint, program, rules, found.scheme_for, convert=found.convert)
        formats: dict[str, set[str]] = {}
        for spec, data in stream:
            formats[spec.kind] = formats.get(spec.kind, set()) | {data.format}
            assert np.abs(dequantise(data) - plain[spec.name]).max() <= np.abs(plain[spec.name]).max() / 250
        assert "int8" in formats["matrix"]
        assert "int8" not in formats["vector"]


@pytest.mark.parametrize("name", ["fmt_awq_g64_llama", "fmt_gptq_int4_sym_g128_llama", "fmt_ct_w8a8_qwen2"])
@pytest.mark.parametrize("wish", ["int8", "int4"])
def test_what_is_plain_in_a_quantised_checkpoint(name: str, wish: str) -> None:
    """Its output projection becomes int8; all else stays as it is stored."""
    with Checkpoint.open(golden(name) / "ckpt") as checkpoint:
        facts = resolve(checkpoint.config)
        assert checkpoint.weights is not None
        architecture = facts.architecture(checkpoint.config)
        program, rules = build(architecture), facts.rules(architecture, checkpoint.config)
        stored, found = (detect(checkpoint.config, checkpoint.weights, w) for w in (None, wish))
        assert found.method == f"{stored.method}, {wish}"
        formats = [
            {spec.name: data.format for spec, data in stream_weights(checkpoint, program, rules, each.scheme_for,
                                                                     convert=each.convert)}
            for each in (stored, found)
        ]  # fmt: skip
    changed = {n: kind for n, kind in formats[1].items() if kind != formats[0][n]}
    assert list(changed.values()) == ["int8"]
    assert set(changed) <= {"head.weight", "embed.weight"}
