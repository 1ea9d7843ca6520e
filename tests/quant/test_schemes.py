"""Schemes against formulas written out number by number, and against tensors that are damaged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.checkpoints.folder import Checkpoint
from penstock.checkpoints.load import stream_weights
from penstock.errors import CheckpointError, PenstockError
from penstock.models.decoder import build
from penstock.models.program import WeightSpec
from penstock.models.registry import resolve
from penstock.models.rules import Permute, rename, split, stack
from penstock.quant.awq import AwqScheme
from penstock.quant.coded import CodedScheme
from penstock.quant.dequantise import dequantise
from penstock.quant.formats import check
from penstock.quant.gptq import GptqScheme
from penstock.quant.packed import PackedScheme
from penstock.quant.scheme import Scheme, WeightData
from tests.checkpoints.files import program
from tests.checkpoints.test_rules import Memory
from tests.helpers import golden
from tests.quant.forms import interleaved, packed

F8 = ml_dtypes.float8_e4m3fn
Tensors = dict[str, np.ndarray]


def built(scheme: Scheme, n: int, k: int, tensors: Mapping[str, np.ndarray]) -> WeightData:
    return check(scheme.build(WeightSpec("w", (n, k), "matrix"), tensors), "w")


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def awq(n: int, k: int, group: int, seed: int = 0) -> tuple[Tensors, np.ndarray]:
    r = random(seed)
    codes, zeros = r.integers(0, 16, (k, n)), r.integers(0, 16, (k // group, n))
    scales = r.uniform(0.01, 0.1, (k // group, n)).astype(np.float16)
    which = np.arange(k) // group
    expected = ((codes - zeros[which]).astype(np.float32) * scales[which].astype(np.float32)).T
    return {"qweight": interleaved(codes), "qzeros": interleaved(zeros), "scales": scales}, expected


def gptq(
    n: int, k: int, bits: int, group: int, *, v2: bool = False, desc: bool = False, seed: int = 0
) -> tuple[Tensors, np.ndarray]:
    r = random(seed)
    groups, most = -(-k // group), 1 << bits
    codes, zeros = r.integers(0, most, (n, k)), r.integers(0, most, (groups, n))
    scales = r.uniform(0.01, 0.1, (groups, n)).astype(np.float16)
    which = np.arange(k) // group
    which = r.permutation(which) if desc else which
    stored = zeros if v2 else (zeros - 1) % most
    wide = np.zeros((groups, -(-n // (32 // bits)) * (32 // bits)), np.int64)
    wide[:, :n] = stored
    expected = (codes.T - zeros[which]).astype(np.float32) * scales[which].astype(np.float32)
    tensors = {"qweight": packed(codes, bits).T.copy(), "qzeros": packed(wide, bits), "scales": scales,
               "g_idx": which.astype(np.int32)}  # fmt: skip
    return tensors, expected.T


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([8, 24, 64]), st.sampled_from([64, 128]), st.sampled_from([32, 64]), st.integers(0, 99))
def test_awq_number_by_number(n: int, k: int, group: int, seed: int) -> None:
    tensors, expected = awq(n, k, group, seed)
    assert np.array_equal(dequantise(built(AwqScheme(group), n, k, tensors)), expected)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([5, 8, 24]), st.sampled_from([64, 96]), st.sampled_from([4, 8]), st.sampled_from([32, 64]),
       st.booleans(), st.booleans(), st.integers(0, 99))  # fmt: skip
def test_gptq_number_by_number(n: int, k: int, bits: int, group: int, v2: bool, desc: bool, seed: int) -> None:
    """Also a last group that is short, and rows that fill no whole word of zero points."""
    tensors, expected = gptq(n, k, bits, group, v2=v2, desc=desc, seed=seed)
    data = built(GptqScheme(bits, group, sym=False, v2=v2), n, k, tensors)
    assert np.array_equal(dequantise(data), expected)
    assert ("g_idx" in data.arrays) == (desc and not np.array_equal(tensors["g_idx"], np.arange(k) // group))
    del tensors["g_idx"]
    if not desc:
        assert np.array_equal(dequantise(built(GptqScheme(bits, group, False, v2), n, k, tensors)), expected)


def test_gptq_stores_a_zero_of_0_as_the_largest_code() -> None:
    tensors: Tensors = {"qweight": np.zeros((1, 8), np.int32), "qzeros": np.full((1, 1), -1, np.int32),
               "scales": np.ones((1, 8), np.float16)}  # fmt: skip
    assert not dequantise(built(GptqScheme(4, -1, False), 8, 8, tensors)).any()
    assert (dequantise(built(GptqScheme(4, -1, False, v2=True), 8, 8, tensors)) == -15).all()
    del tensors["qzeros"]
    assert (dequantise(built(GptqScheme(4, -1, sym=True), 8, 8, tensors)) == -8).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("n", "k", "group"), [(8, 64, 32), (6, 60, None), (9, 64, 48)])
def test_packed_number_by_number(bits: int, symmetric: bool, n: int, k: int, group: int | None) -> None:
    r, most = random(), 1 << bits
    size = group or k
    groups, which = -(-k // size), np.arange(k) // size
    codes, zeros = r.integers(0, most, (n, k)), r.integers(0, most, (n, groups))
    zeros = np.full_like(zeros, most // 2) if symmetric else zeros
    scales = r.uniform(0.01, 0.1, (n, groups)).astype(np.float16)
    pad = np.pad(codes, ((0, 0), (0, -k % (32 // bits))))
    columns = np.pad(zeros, ((0, -n % (32 // bits)), (0, 0)))
    tensors = {"weight_packed": packed(pad, bits), "weight_scale": scales, "weight_shape": np.array([n, k])}
    if not symmetric:
        tensors["weight_zero_point"] = packed(columns.T, bits).T.copy()
    expected = (codes - zeros[:, which]).astype(np.float32) * scales[:, which].astype(np.float32)
    assert np.array_equal(dequantise(built(PackedScheme(bits, symmetric, group), n, k, tensors)), expected)
    order = r.permutation(which).astype(np.int32)
    data = built(PackedScheme(bits, symmetric, group), n, k, {**tensors, "weight_g_idx": order})
    expected = (codes - zeros[:, order]).astype(np.float32) * scales[:, order].astype(np.float32)
    assert np.array_equal(dequantise(data), expected)


@pytest.mark.parametrize("dtype", [np.int8, F8])
@pytest.mark.parametrize(
    ("shape", "how"),
    [((1,), {}), ((), {}), ((20,), {}), ((20, 1), {}), ((20, 3), {"group": 16}), ((3, 5), {"block": (8, 8)}),
     ((2, 1), {"block": (16, 64)})],
)  # fmt: skip
def test_coded_number_by_number(dtype: Any, shape: tuple[int, ...], how: dict[str, Any]) -> None:
    r, (n, k) = random(), (20, 40)
    weight = r.integers(-100, 100, (n, k)).astype(np.float32).astype(dtype)
    scales = r.uniform(0.01, 0.1, shape).astype(np.float32)
    rows, inputs = how.get("block", (1, how.get("group", k)))
    wide = scales.reshape(1, 1) if scales.size == 1 else scales.reshape(n if rows == 1 else shape[0], -1)
    spread = wide[np.arange(n)[:, None] // (rows if scales.size > 1 else n), np.arange(k) // (
        inputs if wide.shape[1] > 1 else k)]  # fmt: skip
    data = built(CodedScheme("x", act="int8", **how), n, k, {"weight": weight, "weight_scale": scales})
    assert np.array_equal(dequantise(data), weight.astype(np.float32) * spread)
    assert data.params["act"] == "int8"


def test_coded_zero_points_and_fixed_input_scales() -> None:
    weight = random().integers(-128, 128, (4, 8)).astype(np.int8)
    tensors: Tensors = {
        "weight": weight,
        "weight_scale": np.full((4, 1), 0.5, np.float16),
        "input_scale": np.ones(1, np.float32),
        "weight_zero_point": np.array([[1], [-3], [0], [9]], np.int8),
    }
    found = dequantise(built(CodedScheme("x"), 4, 8, tensors))
    assert np.array_equal(found, (weight.astype(np.float32) - [[1], [-3], [0], [9]]) * 0.5)
    with pytest.raises(CheckpointError, match="makes no sense for float8"):
        built(CodedScheme("x"), 4, 8, {**tensors, "weight": weight.astype(F8)})


# -------------------------------------------------------------------------------------------------------- whole files

CASES: dict[str, tuple[Scheme, Tensors]] = {
    "awq": (AwqScheme(32), awq(16, 64, 32)[0]),
    "gptq": (GptqScheme(4, 32, sym=False), gptq(16, 64, 4, 32, desc=True)[0]),
    "packed": (PackedScheme(4, False, 32), {
        "weight_packed": np.zeros((16, 8), np.int32), "weight_scale": np.ones((16, 2), np.float16),
        "weight_zero_point": np.zeros((2, 2), np.int32), "weight_shape": np.array([16, 64]),
        "weight_g_idx": np.arange(64) // 32}),
    "coded": (CodedScheme("x", group=32), {
        "weight": np.zeros((16, 64), np.int8), "weight_scale": np.ones((16, 2), np.float16),
        "weight_zero_point": np.zeros((16, 2), np.int8)}),
    "fp8": (CodedScheme("fp8", "weight_scale_inv", block=(8, 32)), {
        "weight": np.zeros((16, 64), F8), "weight_scale_inv": np.ones((2, 2), np.float32)}),
}  # fmt: skip
READ = {case: list(tensors) for case, (_, tensors) in CASES.items()}


@pytest.mark.parametrize(("case", "part"), [(case, part) for case, parts in READ.items() for part in parts])
def test_damaged_parts_are_told_by_name(case: str, part: str) -> None:
    scheme, tensors = CASES[case]
    sound = tensors[part]
    for wrong in (sound[:-1], sound[..., None], np.zeros_like(sound, np.complex64), sound.astype(np.bool_)):
        source = Memory(**{f"layers__0__q__{p}": a for p, a in {**tensors, part: wrong}.items()})
        with pytest.raises(CheckpointError) as caught:
            list(stream_weights(
                Checkpoint(path=golden("llama"), config={}, weights=source), program(q__weight=(16, 64)),
                [rename("layers.0.q.weight", "q.weight")], lambda name: scheme,
            ))  # fmt: skip
        message = str(caught.value)
        assert "layers.0.q.weight" in message and "\n" not in message
        assert part in message or "scales" in message or "g_idx" in message


def test_scales_that_are_not_finite_and_groups_that_are_not_there() -> None:
    tensors, _ = gptq(16, 64, 4, 32)
    tensors["scales"][1, 3] = np.inf
    with pytest.raises(CheckpointError, match="scales holds numbers that are not finite"):
        built(GptqScheme(4, 32, False), 16, 64, tensors)
    for bad in (2, -1):
        tensors, _ = gptq(16, 64, 4, 32)
        tensors["g_idx"][5] = bad
        with pytest.raises(CheckpointError, match=r"g_idx names groups outside 0\.\.1"):
            built(GptqScheme(4, 32, False), 16, 64, tensors)


@pytest.mark.parametrize(
    ("scheme", "n", "k"),
    [
        (AwqScheme(32), 12, 64),
        (AwqScheme(48), 16, 64),
        (GptqScheme(4, 32, True), 16, 60),
        (PackedScheme(4, True), 4, 7),
    ],
)
def test_sizes_that_a_format_cannot_have(scheme: Scheme, n: int, k: int) -> None:
    with pytest.raises(CheckpointError):
        built(scheme, n, k, {})


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(CASES)), st.data())
def test_any_parts_are_built_or_refused(case: str, data: st.DataObject) -> None:
    scheme, tensors = CASES[case]
    shapes = st.lists(st.integers(0, 20), max_size=3).map(tuple)
    dtypes = st.sampled_from([np.int32, np.float16, np.int8, F8, np.int64, np.float32])
    changed = dict(tensors)
    for part in data.draw(st.sets(st.sampled_from(sorted(tensors)), min_size=1)):
        changed[part] = np.zeros(data.draw(shapes), data.draw(dtypes))
    try:
        dequantise(built(scheme, 16, 64, changed))
    except PenstockError as error:
        if "\n" in str(error):
            raise


# ------------------------------------------------------------------------------------- families' rules on any format


def load(tensors: Tensors, wanted: Any, rules: list[Any], scheme: Scheme) -> dict[str, WeightData]:
    source = Memory(**{name.replace(".", "__"): array for name, array in tensors.items()})
    checkpoint = Checkpoint(path=golden("llama"), config={}, weights=source)
    return {spec.name: data for spec, data in stream_weights(checkpoint, wanted, rules, lambda name: scheme)}


@pytest.mark.parametrize("kind", ["awq", "gptq"])
def test_split_permute_and_stack(kind: str) -> None:
    def make(seed: int) -> tuple[Tensors, np.ndarray]:
        return awq(32, 64, 32, seed) if kind == "awq" else gptq(32, 64, 4, 32, desc=True, seed=seed)

    scheme: Scheme = AwqScheme(32) if kind == "awq" else GptqScheme(4, 32, False)
    tensors, whole = make(1)
    named = {f"qkv.{part}": array for part, array in tensors.items()}
    rules = [split("qkv.weight", ("q.weight", "k.weight"), groups=2)]
    found = load(named, program(q__weight=(24, 64), k__weight=(8, 64)), rules, scheme)
    q = [*range(12), *range(16, 28)]
    assert np.array_equal(dequantise(found["q.weight"]), whole[q])
    found = load(named, program(q__weight=(32, 64)), [rename("qkv.weight", "q.weight", Permute(2, "halves"))], scheme)
    order = [*range(0, 16, 2), *range(1, 16, 2), *range(16, 32, 2), *range(17, 32, 2)]
    assert np.array_equal(dequantise(found["q.weight"]), whole[order])
    several = [make(seed) for seed in range(3)]
    named = {f"e.{i}.w.{part}": a for i, (t, _) in enumerate(several) for part, a in t.items()}
    found = load(named, program(w=(3, 32, 64)), [stack("e.{e}.w.weight", "w", "e")], scheme)
    assert np.array_equal(dequantise(check(found["w"], "w")), np.stack([expected for _, expected in several]))


@pytest.mark.parametrize("first", [True, False])
def test_one_expert_without_an_order_among_those_with_one(first: bool) -> None:
    """What no text of the calibration reached has nothing to order by."""
    made = [gptq(8, 64, 4, 32, desc=(e == 0) == first, seed=e) for e in range(3)]
    tensors = {f"e.{e}.w.{part}": a for e, (parts, _) in enumerate(made) for part, a in parts.items()}
    found = load(tensors, program(w=(3, 8, 64)), [stack("e.{e}.w.weight", "w", "e")], GptqScheme(4, 32, False))
    assert np.array_equal(dequantise(check(found["w"], "w")), np.stack([expected for _, expected in made]))


@pytest.mark.parametrize("middle", [0, 2])
def test_one_expert_whose_zero_points_are_all_in_the_middle(middle: int) -> None:
    made = [gptq(8, 64, 8, 32, seed=e) for e in range(3)]
    parts, _ = made[middle]
    zeros = np.full((2, 8), 128)
    parts["qzeros"] = packed(zeros - 1, 8)
    codes = parts["qweight"].T.copy().view(np.uint8)
    made[middle] = parts, (codes.astype(np.float32) - 128) * np.repeat(parts["scales"].T, 32, axis=1).astype(np.float32)
    tensors = {f"e.{e}.w.{part}": a for e, (parts, _) in enumerate(made) for part, a in parts.items()}
    found = load(tensors, program(w=(3, 8, 64)), [stack("e.{e}.w.weight", "w", "e")], GptqScheme(8, 32, False))
    assert np.array_equal(dequantise(check(found["w"], "w")), np.stack([expected for _, expected in made]))


def test_an_order_that_was_not_made() -> None:
    """compressed-tensors fills weight_g_idx with -1 where there is none."""
    codes = random().integers(0, 16, (8, 64))
    tensors = {"weight_packed": packed(codes, 4), "weight_scale": np.ones((8, 2), np.float16)}
    plain = dequantise(built(PackedScheme(4, True, 32), 8, 64, tensors))
    tensors["weight_g_idx"] = np.full(64, -1, np.int32)
    assert np.array_equal(dequantise(built(PackedScheme(4, True, 32), 8, 64, tensors)), plain)
    tensors["weight_g_idx"] = np.where(np.arange(64) == 5, -1, np.arange(64) // 32).astype(np.int32)
    with pytest.raises(CheckpointError, match="outside"):
        built(PackedScheme(4, True, 32), 8, 64, tensors)


def test_a_whole_mixtral_in_gptq() -> None:
    """Experts and all: every linear of the file replaced by its codes, the router plain."""
    with Checkpoint.open(golden("mixtral") / "ckpt") as checkpoint:
        family, config = resolve(checkpoint.config), checkpoint.config
        architecture = family.architecture(config)
        assert checkpoint.weights is not None
        tensors: Tensors = {}
        expected: Tensors = {}
        for seed, name in enumerate(checkpoint.weights.names()):
            array = np.array(checkpoint.weights.get(name))
            if array.ndim == 2 and ("experts" in name or "_proj" in name) and array.shape[1] % 8 == 0:
                n, k = array.shape
                parts, expected[name] = gptq(n, k, 4, 32, desc=True, seed=seed)
                tensors |= {name.removesuffix("weight") + part: a for part, a in parts.items()}
            else:
                tensors[name] = array
    source = Memory(**{name.replace(".", "__"): a for name, a in tensors.items()})
    settings_ = {**config, "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False}}
    stream = stream_weights(
        Checkpoint(golden("mixtral"), settings_, {}, source), build(architecture), family.rules(architecture, config)
    )
    found = {spec.name: dequantise(data) for spec, data in stream}
    layer = "model.layers.0.block_sparse_moe.experts"
    count = len([name for name in expected if name.startswith(layer) and name.endswith("w1.weight")])
    assert np.array_equal(found["layers.0.moe.gate.weight"], [expected[f"{layer}.{e}.w1.weight"] for e in range(count)])
    assert np.array_equal(found["layers.0.attn.k.weight"], expected["model.layers.0.self_attn.k_proj.weight"])
