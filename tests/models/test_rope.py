"""Frequencies against transformers' own functions, length rules against their formulas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.models.architecture import Architecture, Attention, Block, Mlp, Norm, Rope, RopeScaling
from penstock.models.rope import frequencies, inverse, length_key, qwen_alpha, stretched_theta

torch = pytest.importorskip("torch")
utils = pytest.importorskip("transformers.modeling_rope_utils")
from transformers import LlamaConfig  # noqa: E402

CASES: dict[str, dict[str, Any]] = {
    "linear": {"factor": 4.0},
    "llama3": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 2048},
    "yarn, untruncated": {"factor": 4.0, "original_max_position_embeddings": 2048, "truncate": False},
    "yarn, mscale": {"factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 0.7, "mscale_all_dim": 1.2},
    "yarn, small": {"factor": 1.0, "original_max_position_embeddings": 8, "beta_fast": 1.0, "beta_slow": 1.0},
    "longrope": {
        "factor": 8.0, "original_max_position_embeddings": 4096, "short_factor": [1.0 + i / 9 for i in range(32)],
        "long_factor": [1.0 + i for i in range(32)],
    },
    "longrope, given": {
        "attention_factor": 1.25, "factor": 8.0, "original_max_position_embeddings": 4096,
        "short_factor": [1.0] * 32, "long_factor": [2.0] * 32,
    },
}  # fmt: skip
FIELDS = {"original_max_position_embeddings": "original_length"}


def scaling(kind: str, given: dict[str, Any]) -> RopeScaling:
    values = {FIELDS.get(k, k): tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    return RopeScaling(kind, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("theta", [10000.0, 500000.0])
@pytest.mark.parametrize("case", CASES)
def test_scaled_frequencies_are_those_of_transformers(case: str, theta: float) -> None:
    kind, given = case.split(",")[0], CASES[case]
    config = LlamaConfig(
        hidden_size=128, num_attention_heads=2, max_position_embeddings=8192,
        rope_parameters={"rope_type": kind, "rope_theta": theta, **given},
    )  # fmt: skip
    found = frequencies(Rope(64, theta, scaling=scaling(kind, given)))
    expected, factor = utils.ROPE_INIT_FUNCTIONS[kind](config, "cpu")
    np.testing.assert_allclose(found.inv_freq, expected.numpy(), rtol=3e-7)
    assert found.scale == pytest.approx(factor, rel=1e-12)
    if kind == "longrope":
        expected, _ = utils.ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=4097)
        np.testing.assert_allclose(found.inv_freq_long, expected.numpy(), rtol=3e-7)


@pytest.mark.parametrize("n", [1, 100, 101, 150, 4000])
def test_dynamic_frequencies_are_those_of_transformers(n: int) -> None:
    config = LlamaConfig(
        hidden_size=128, num_attention_heads=2, max_position_embeddings=100,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 3.0},
    )  # fmt: skip
    expected, _ = utils.ROPE_INIT_FUNCTIONS["dynamic"](config, "cpu", seq_len=n)
    np.testing.assert_allclose(inverse(stretched_theta(1e4, 64, "dynamic", n, 3.0, 100), 64), expected, rtol=3e-7)


def test_plain_frequencies_are_the_nearest_float32() -> None:
    found = frequencies(Rope(6, 100.0)).inv_freq
    assert found == tuple(float(np.float32(1) / np.float32(100 ** float(np.float32(2 * i) / 6))) for i in range(3))


def test_half_precision_rounds_frequencies() -> None:
    found = frequencies(Rope(16, 10000.0, half_precision=True)).inv_freq
    assert found == tuple(float(np.float16(f)) for f in frequencies(Rope(16, 10000.0)).inv_freq)
    assert found != frequencies(Rope(16, 10000.0)).inv_freq


@given(st.integers(1, 100_000), st.integers(8, 8192))
def test_qwen_alpha_is_its_formula(n: int, original: int) -> None:
    expected = max(2 ** math.ceil(math.log2(n / original) + 1) - 1, 1)
    assert qwen_alpha(n, original) == expected
    theta = stretched_theta(1e4, 32, "qwen_ntk", n, 1.0, original)
    assert theta == (1e4 if n <= original else 1e4 * expected ** (32 / 30))


KINDS = (
    None,
    RopeScaling("linear", factor=2.0),
    RopeScaling("dynamic", factor=3.0, original_length=64),
    RopeScaling("longrope", original_length=64),
    RopeScaling("qwen_ntk", original_length=64),
)


@given(st.sampled_from(KINDS), st.integers(1, 600), st.integers(1, 600), st.integers(0, 700))
def test_prompts_of_equal_keys_rotate_alike(s: RopeScaling | None, a: int, b: int, position: int) -> None:
    """What a prefix cache relies on: equal keys, equal base (or equal choice of factors) at every position."""

    def rotation(prompt: int) -> object:
        n = max(prompt, position + 1)
        if s is None or s.kind == "linear":
            return None
        if s.kind == "longrope":
            return n > s.original_length
        return stretched_theta(1e4, 32, s.kind, prompt if s.kind == "qwen_ntk" else n, s.factor, s.original_length)

    if length_key(s, a) == length_key(s, b):
        assert rotation(a) == rotation(b)


def test_an_architecture_knows_its_length_key() -> None:
    def arch(s: RopeScaling | None) -> Architecture:
        attention = Attention(2, 2, 8, 1.0, ropes=(Rope(8, 1e4, scaling=s),))
        norm = Norm("rms", 1e-6)
        return Architecture("x", 9, 16, 64, (Block(attention, Mlp(8, "silu"), norm),), norm)

    assert [arch(None).length_key(n) for n in (1, 100)] == [0, 0]
    assert [arch(KINDS[2]).length_key(n) for n in (1, 64, 65)] == [64, 64, 65]
    assert [arch(KINDS[3]).length_key(n) for n in (64, 65)] == [0, 1]
    assert [arch(KINDS[4]).length_key(n) for n in (64, 65, 128, 129)] == [1, 3, 3, 7]
