"""Rules: each way a tensor becomes weights, and everything that can fail to fit."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.checkpoints.folder import Checkpoint
from penstock.checkpoints.load import dense, stream_weights
from penstock.checkpoints.names_error import WeightsError
from penstock.checkpoints.patterns import Pattern, fill, pattern
from penstock.checkpoints.source import Array, TensorInfo
from penstock.checkpoints.ties import settle_ties
from penstock.errors import CheckpointError, UnsupportedError
from penstock.models.architecture import Architecture, Head
from penstock.models.program import Program, WeightSpec
from penstock.models.rules import Permute, Rule, Transpose, UnitRows, ignore, rename, split, stack
from penstock.quant.scheme import Scheme, SchemeFor, WeightData
from tests.checkpoints.files import program


class Memory:
    """A source of arrays in memory that records what was released."""

    def __init__(self, **tensors: Any) -> None:
        self.tensors = {name.replace("__", "."): np.asarray(array) for name, array in tensors.items()}
        self.got: list[str] = []
        self.released: list[str] = []

    def names(self) -> list[str]:
        return list(self.tensors)

    def info(self, name: str) -> TensorInfo:
        array = self.tensors[name]
        return TensorInfo(name, array.dtype, array.shape, array.nbytes, Path("memory"))

    def get(self, name: str) -> Array:
        self.got.append(name)
        return self.tensors[name]

    def release(self, name: str) -> None:
        self.released.append(name)

    def close(self) -> None:
        pass


def load(
    source: Memory, wanted: Program, rules: Sequence[Rule], scheme_for: SchemeFor = dense, **more: Any
) -> dict[str, Array]:
    stream = stream_weights(Checkpoint(Path(), {}, {}, source), wanted, rules, scheme_for, **more)
    return {spec.name: np.array(data.arrays["weight"]) for spec, data in stream}


def numbers(*shape: int) -> Array:
    return np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)


# ------------------------------------------------------------------------------------------------- patterns


def test_a_pattern_names_what_it_matches() -> None:
    source = pattern("[model.]layers.{i}.{x:q|k}_proj.{p:weight|bias}")
    assert source.match("model.layers.12.k_proj.bias") == {"i": "12", "x": "k", "p": "bias"}
    assert source.match("layers.0.q_proj.weight") == {"i": "0", "x": "q", "p": "weight"}
    for other in (
        "layers.01.q_proj.weight",
        "layers.0.v_proj.weight",
        "layers..q_proj.weight",
        "x.layers.0.q_proj.bias",
    ):
        assert source.match(other) is None
    values = {"i": "3", "x": "q", "p": "bias"}
    assert source.names(values) == ["model.layers.3.q_proj.bias", "layers.3.q_proj.bias"]


def test_a_target_takes_its_words_from_the_source() -> None:
    target = pattern("blocks.{i}.{x}", "h.{i}.{x:q|k}")
    assert target.match("blocks.3.k") == {"i": "3", "x": "k"}
    assert target.match("blocks.3.v") is None


def test_dots_are_literal_and_stars_are_not() -> None:
    assert pattern("*.inv_freq").match("a.b.inv_freq") == {}
    assert pattern("*.inv_freq").match("a.b-inv_freq") is None
    assert pattern("a.{i}.{i}").match("a.1.1") is not None
    assert pattern("a.{i}.{i}").match("a.1.2") is None


@pytest.mark.parametrize("text", ["a.{i", "a.[b", "a.b]", "a}"])
def test_a_pattern_with_an_open_bracket_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="unmatched bracket"):
        _ = Pattern(text).regex


@given(st.integers(0, 999_999), st.sampled_from(["weight", "bias"]), st.booleans())
def test_names_and_match_are_inverse(i: int, word: str, prefix: bool) -> None:
    source = pattern("[transformer.]h.{i}.ln.{p:weight|bias}")
    name = source.names({"i": str(i), "p": word})[0 if prefix else 1]
    assert source.match(name) == {"i": str(i), "p": word}
    assert fill("x.{i}.{p:weight|bias}", {"i": str(i), "p": word}) == f"x.{i}.{word}"


# ------------------------------------------------------------------------------------------- what rules make


def test_rename_keeps_numbers_and_order_of_the_program() -> None:
    source = Memory(model__b__weight=numbers(2), model__a__weight=numbers(3, 2))
    rules = [rename("[model.]{x:a|b}.weight", "{x}")]
    found = load(source, program(a=(3, 2), b=(2,)), rules)
    assert list(found) == ["a", "b"]
    assert np.array_equal(found["a"], numbers(3, 2))


@pytest.mark.parametrize("prefix", ["model__", ""])
def test_a_prefix_may_be_absent(prefix: str) -> None:
    source = Memory(**{f"{prefix}a__weight": numbers(2, 2)})
    assert list(load(source, program(x__weight=(2, 2)), [rename("[model.]a.weight", "x.weight")])) == ["x.weight"]


def test_split_in_a_row() -> None:
    fused = numbers(8, 3)
    rules = [split("qkv.{p:weight|bias}", ("q.{p}", "k.{p}", "v.{p}"))]
    wanted = program(q__weight=(4, 3), k__weight=(2, 3), v__weight=(2, 3), q__bias=(4,), k__bias=(2,), v__bias=(2,))
    found = load(Memory(qkv__weight=fused, qkv__bias=numbers(8)), wanted, rules)
    assert np.array_equal(np.concatenate([found["q.weight"], found["k.weight"], found["v.weight"]]), fused)
    assert found["k.bias"].tolist() == [4, 5]


def test_split_by_groups_is_the_interleaved_layout() -> None:
    """Per KV head: its query heads, its key, its value (InternLM2); written out with reshape."""
    kv_heads, per_group, head = 2, 3, 4
    fused = numbers(kv_heads * (per_group + 2) * head, 5)
    view = fused.reshape(kv_heads, per_group + 2, head, 5)
    wanted = program(q__weight=(24, 5), k__weight=(8, 5), v__weight=(8, 5))
    found = load(Memory(w__weight=fused), wanted, [split("w.weight", ("q.weight", "k.weight", "v.weight"), groups=2)])
    assert np.array_equal(found["q.weight"], view[:, :per_group].reshape(-1, 5))
    assert np.array_equal(found["k.weight"], view[:, per_group].reshape(-1, 5))
    assert np.array_equal(found["v.weight"], view[:, per_group + 1].reshape(-1, 5))


def test_split_drops_rows_of_a_nameless_target() -> None:
    rule = split("w.weight", ("a.weight", "", "b.weight"), sizes=(1, 2, 1))
    found = load(Memory(w__weight=numbers(4, 2)), program(a__weight=(1, 2), b__weight=(1, 2)), [rule])
    assert found["b.weight"].tolist() == [[6, 7]]


def test_stack_gathers_along_a_new_axis() -> None:
    source = Memory(**{f"h__3__experts__{e}__w1__weight": numbers(2, 3) + 10 * e for e in range(12)})
    found = load(source, program(b__3__up=(12, 2, 3)), [stack("h.{i}.experts.{e}.w1.weight", "b.{i}.up", over="e")])
    assert np.array_equal(found["b.3.up"][11], numbers(2, 3) + 110)
    assert set(source.released) == set(source.names())


def test_transpose_then_split() -> None:
    conv = numbers(3, 6)
    rules = [split("c.weight", ("q.weight", "k.weight"), Transpose()), rename("c.bias", "bias", Transpose())]
    found = load(
        Memory(c__weight=conv, c__bias=numbers(6)), program(q__weight=(2, 3), k__weight=(4, 3), bias=(6,)), rules
    )
    assert np.array_equal(found["q.weight"], conv.T[:2])
    assert np.array_equal(found["k.weight"], conv.T[2:])
    assert found["bias"].tolist() == [0, 1, 2, 3, 4, 5]


def test_permute_turns_halves_into_pairs_and_back() -> None:
    rows = numbers(8, 1)
    pairs = load(Memory(w=rows), program(w=(8, 1)), [rename("w", "w", Permute(2, "pairs"))])["w"]
    assert pairs[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    wide = load(Memory(w=numbers(12, 1)), program(w=(12, 1)), [rename("w", "w", Permute(2, "pairs"))])["w"]
    assert wide[:6, 0].tolist() == [0, 3, 1, 4, 2, 5]
    back = load(Memory(w=wide), program(w=(12, 1)), [rename("w", "w", Permute(2, "halves"))])["w"]
    assert np.array_equal(back, numbers(12, 1))


def test_unit_rows() -> None:
    head = np.random.default_rng(0).normal(size=(2050, 8)).astype(ml_dtypes.bfloat16)
    head[5] = 0
    found = load(Memory(w=head), program(w=(2050, 8)), [rename("w", "w", UnitRows())])["w"]
    assert found.dtype == np.float32
    lengths = np.linalg.norm(found, axis=1)
    assert lengths[5] == 0
    assert np.allclose(np.delete(lengths, 5), 1, atol=1e-6)


def test_the_first_rule_with_a_source_wins() -> None:
    rules = [rename("new.weight", "w"), rename("old.weight", "w")]
    assert list(load(Memory(old__weight=numbers(2)), program(w=(2,)), rules)) == ["w"]


# ---------------------------------------------------------------------------------------- what does not fit


def test_everything_that_does_not_fit_is_one_error() -> None:
    source = Memory(
        layers__0__q_porj__weight=numbers(2, 2), layers__0__k_proj__weight=numbers(3, 2), extra=numbers(1),
        layers__0__rotary_emb__inv_freq=numbers(1),
    )  # fmt: skip
    rules = [rename("layers.{i}.{x:q|k|v}_proj.weight", "l.{i}.{x}")]
    with pytest.raises(WeightsError) as caught:
        load(source, program(l__0__q=(2, 2), l__0__k=(2, 2), l__0__v=(2, 2)), rules)
    error = caught.value
    assert error.missing == {"l.0.q": "layers.0.q_proj.weight", "l.0.v": "layers.0.v_proj.weight"}
    assert error.left_over == ("extra", "layers.0.q_porj.weight")
    assert error.misshapen == {"layers.0.k_proj.weight": "expected [2, 2], found [3, 2]"}
    text = str(error)
    assert "2 tensors missing" in text
    assert "2 tensors left over: extra, layers.0.q_porj.weight" in text
    assert "(there is 'layers.0.q_porj.weight')" in text
    assert "layers.0.k_proj.weight expected [2, 2], found [3, 2]" in text
    assert "\n" not in text
    assert source.got == [], "found out before any data is read"


def test_long_lists_are_cut_and_counted() -> None:
    source = Memory(**{f"x{n:03}": numbers(1) for n in range(57)})
    with pytest.raises(WeightsError) as caught:
        load(source, program(**{f"w{n:03}": (1,) for n in range(1000)}), [])
    assert "57 tensors left over: x000, x001" in str(caught.value)
    assert "x019 and 37 more" in str(caught.value)
    assert "1,000 tensors missing" in str(caught.value)
    assert "w019 and 980 more" in str(caught.value)
    assert len(caught.value.left_over) == 57
    assert len(caught.value.missing) == 1000


def test_names_from_a_file_cannot_write_to_the_terminal() -> None:
    source = Memory()
    source.tensors = {"a\n\x1b[2J": numbers(1), "b" * 3000: numbers(1), "\ud800": numbers(1)}
    with pytest.raises(WeightsError) as caught:
        load(source, program(), [])
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_a_missing_name_is_told_with_the_prefix_of_the_file() -> None:
    rules = [rename("[model.]h.{x:a|b}.weight", "{x}")]
    for prefix in ("model.", ""):
        source = Memory()
        source.tensors = {f"{prefix}h.a.weight": numbers(1)}
        with pytest.raises(WeightsError) as caught:
            load(source, program(a=(1,), b=(1,)), rules)
        assert caught.value.missing == {"b": f"{prefix}h.b.weight"}


def test_a_gap_among_experts_is_told() -> None:
    source = Memory(e__0__w__weight=numbers(2, 2), e__2__w__weight=numbers(2, 2))
    with pytest.raises(WeightsError) as caught:
        load(source, program(w=(3, 2, 2)), [stack("e.{e}.w.weight", "w", over="e")])
    assert caught.value.missing == {"w": "e.1.w.weight"}


def test_a_weight_without_a_rule_is_missing_under_its_own_name() -> None:
    with pytest.raises(WeightsError, match="1 tensor missing: w;"):
        load(Memory(), program(w=(1,)), [])


def test_ignored_names_are_let_go() -> None:
    source = Memory(w=numbers(1), h__0__attn__bias=numbers(4), h__0__attn__masked_bias=numbers(1))
    assert list(load(source, program(w=(1,)), [rename("w", "w"), ignore("h.{i}.attn.bias")])) == ["w"]


def test_a_bias_of_zeros_that_the_family_lacks_is_let_go() -> None:
    assert list(load(Memory(w=numbers(1), q__bias=np.zeros(4, np.float16)), program(w=(1,)), [rename("w", "w")])) == [
        "w"
    ]
    with pytest.raises(WeightsError, match=r"left over: q\.bias"):
        load(Memory(w=numbers(1), q__bias=np.ones(4, np.float16)), program(w=(1,)), [rename("w", "w")])


def test_integers_where_numbers_should_be_are_told() -> None:
    with pytest.raises(UnsupportedError, match="int32"):
        load(Memory(w=np.ones((1, 1), np.int32)), program(w=(1, 1)), [rename("w", "w")])


def test_experts_stored_differently_are_told() -> None:
    source = Memory(e__0=numbers(2, 2), e__1=numbers(2, 2).astype(np.float16))
    with pytest.raises(UnsupportedError, match="stored alike"):
        load(source, program(w=(2, 2, 2)), [stack("e.{e}", "w", over="e")])


# ------------------------------------------------------------------------------------------------------ ties

TIED = [rename("[model.]embed.weight", "embed.weight"), rename("lm_head.weight", "head.weight", tied_to="embed.weight")]


def architecture(tied: bool) -> Architecture:
    return Architecture("test", 4, 2, 8, (), None, head=Head(tied=tied))


def test_a_tied_head_that_is_equal_is_dropped() -> None:
    source = Memory(model__embed__weight=numbers(4, 2), lm_head__weight=numbers(4, 2))
    assert settle_ties(architecture(True), source, TIED).head.tied
    assert list(load(source, program(embed__weight=(4, 2)), TIED)) == ["embed.weight"]


def test_a_tied_head_that_differs_is_used_as_transformers_does(caplog: pytest.LogCaptureFixture) -> None:
    source = Memory(embed__weight=numbers(4, 2), lm_head__weight=numbers(4, 2) + 1)
    with caplog.at_level(logging.WARNING):
        assert not settle_ties(architecture(True), source, TIED).head.tied
    assert "tie_word_embeddings" in caplog.text
    found = load(source, program(embed__weight=(4, 2), head__weight=(4, 2)), TIED)
    assert found["head.weight"][0, 0] == 1
    with pytest.raises(CheckpointError, match="set tie_word_embeddings to false"):
        load(source, program(embed__weight=(4, 2)), TIED)


def test_ties_compare_numbers_not_bytes() -> None:
    source = Memory(embed__weight=numbers(4, 2), lm_head__weight=numbers(4, 2).astype(np.float16))
    assert settle_ties(architecture(True), source, TIED).head.tied


def test_a_tied_pair_of_which_only_the_head_is_there() -> None:
    source = Memory(lm_head__weight=numbers(4, 2))
    assert settle_ties(architecture(True), source, TIED).head.tied
    assert np.array_equal(load(source, program(embed__weight=(4, 2)), TIED)["embed.weight"], numbers(4, 2))


def test_an_untied_model_needs_its_head() -> None:
    source = Memory(embed__weight=numbers(4, 2))
    assert settle_ties(architecture(False), source, TIED) == architecture(False)
    with pytest.raises(WeightsError, match=r"missing: lm_head\.weight"):
        load(source, program(embed__weight=(4, 2), head__weight=(4, 2)), TIED)


# --------------------------------------------------------------------------------------------------- schemes


class Scaled:
    """A format of three tensors: codes, scales per row, and perhaps an order of the inputs."""

    name = "scaled"

    def parts(self, spec: WeightSpec) -> tuple[str, ...]:
        return ("qweight", "scales", "g_idx?")

    def build(self, spec: WeightSpec, tensors: Mapping[str, Array]) -> WeightData:
        codes = tensors["qweight"].T  # stored [k, n]
        arrays = {
            "weight": codes,
            "scales": tensors["scales"],
            **({"g_idx": tensors["g_idx"]} if "g_idx" in tensors else {}),
        }
        return WeightData("scaled", codes.shape, arrays, shared=frozenset({"g_idx"}))


def scaled(name: str) -> Scheme:
    return dense(name) if name.startswith("lm_head") else Scaled()


def test_all_tensors_of_a_format_are_gathered_and_split_alike() -> None:
    codes = np.arange(12, dtype=np.int8).reshape(2, 6)
    source = Memory(qkv__qweight=codes, qkv__scales=numbers(6), qkv__g_idx=np.array([1, 0]), qkv__bias=numbers(6))
    rules = [split("qkv.{p:weight|bias}", ("q.{p}", "k.{p}"))]
    wanted = program(q__weight=(4, 2), k__weight=(2, 2), q__bias=(4,), k__bias=(2,))
    stream = stream_weights(Checkpoint(Path(), {}, {}, source), wanted, rules, scaled)
    found = {spec.name: data for spec, data in stream}
    assert found["k.weight"].format == "scaled"
    assert np.array_equal(found["k.weight"].arrays["weight"], codes.T[4:])
    assert found["k.weight"].arrays["scales"].tolist() == [4, 5]
    assert found["k.weight"].arrays["g_idx"].tolist() == [1, 0]
    assert found["q.bias"].format == "f32"
    assert source.got.count("qkv.qweight") == 1, "built once for all its targets"


def test_a_part_that_is_not_there_is_missing_by_its_name() -> None:
    with pytest.raises(WeightsError) as caught:
        load(Memory(w__qweight=numbers(2, 2)), program(w__weight=(2, 2)), [rename("w.weight", "w.weight")], scaled)
    assert caught.value.missing == {"w.weight": "w.scales"}
    assert caught.value.left_over == ()


def test_a_shape_that_the_format_hides_is_checked_once_it_is_known() -> None:
    source = Memory(w__qweight=np.ones((2, 3), np.int8), w__scales=numbers(3))
    with pytest.raises(CheckpointError, match=r"w\.weight as scaled: expected \[2, 2\], found \[3, 2\]"):
        load(source, program(w__weight=(2, 2)), [rename("w.weight", "w.weight")], scaled)


def test_a_head_normalised_at_load_must_be_plain_numbers() -> None:
    source = Memory(w__qweight=np.ones((2, 2), np.int8), w__scales=numbers(2))
    with pytest.raises(UnsupportedError, match="normalises its rows"):
        load(source, program(w__weight=(2, 2)), [rename("w.weight", "w.weight", UnitRows())], scaled)


# -------------------------------------------------------------------------------------------------- streaming


def test_progress_ends_at_the_total_and_everything_is_released() -> None:
    seen: list[tuple[int, int]] = []
    source = Memory(a=numbers(4, 2), b=numbers(2), skip__rotary_emb__inv_freq=numbers(9))
    rules = [split("a", ("x", "y")), rename("b", "b")]
    load(source, program(x=(1, 2), y=(3, 2), b=(2,)), rules, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(32, 40), (40, 40)]
    assert set(source.released) == {"a", "b"}


def test_each_tensor_is_released_before_the_next_is_read() -> None:
    source = Memory(a=numbers(2), b=numbers(2))
    stream = stream_weights(Checkpoint(Path(), {}, {}, source), program(a=(2,), b=(2,)), [rename("{x:a|b}", "{x}")])
    next(stream)
    assert (source.got, source.released) == (["a"], [])
    next(stream)
    assert (source.got, source.released) == (["a", "b"], ["a"])


def test_a_checkpoint_opened_without_weights_is_told() -> None:
    with pytest.raises(CheckpointError, match="weights=True"):
        stream_weights(Checkpoint(Path("x"), {}), program(), [])
