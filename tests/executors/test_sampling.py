"""The plain sampler: each step by its formula, draws by their distribution, scores by log-softmax."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.executors.sampling import sample, typical, uniform
from penstock.types import StepOutput
from tests.harness import sampling

LOGITS = np.array([1.0, 3.0, 2.0, 3.0, -1.0, 0.5], np.float32)


def tokens(logits: Any = LOGITS, entries: int = 1, **columns: Any) -> list[int]:
    rows = np.atleast_2d(np.asarray(logits, np.float32))
    return sample(rows, sampling([0] * entries, rows.shape[1], **columns)).token_ids.tolist()


def share(n: int = 4000, logits: Any = LOGITS, **columns: Any) -> dict[int, float]:
    """How often each token is drawn, over ``n`` draws of one seed."""
    found = tokens(logits, entries=n, draw=np.arange(n), **({"temperature": 1.0} | columns))
    ids, counts = np.unique(found, return_counts=True)
    return dict(zip(ids.tolist(), (counts / n).tolist()))


def softmax(x: Any) -> Any:
    w = np.exp(np.asarray(x, np.float64) - np.max(x))
    return w / w.sum()


def test_uniform_is_splitmix64() -> None:
    """The first outputs for seed 1234567 of the generator's published C code."""
    first = (6457827717110365317, 3203168211198807973, 9817491932198370423)
    assert [uniform(1234567, draw) for draw in range(3)] == [(z >> 11) * 2.0**-53 for z in first]


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40))
def test_uniform_is_in_its_range(seed: int, draw: int) -> None:
    assert 0 <= uniform(seed, draw) < 1
    assert uniform(seed, draw) != uniform(seed, draw + 1)


def test_greedy_takes_the_lowest_of_equals() -> None:
    assert tokens() == [1]
    assert tokens(temperature=1.0, top_k=1) == [1]


def test_bias_and_mask() -> None:
    assert tokens(bias_start=[0, 2], bias_ids=[4, 1], bias_values=[10.0, -1.0]) == [4]
    assert tokens(mask_row=0, masks=[[0b010101]]) == [2]
    assert tokens(mask_row=[-1, 1], masks=[[0], [0b100000]], entries=2) == [1, 5]


def test_a_mask_reaches_over_words() -> None:
    logits = np.arange(70, dtype=np.float32)
    assert tokens(logits, mask_row=0, masks=[[1, 1 << 5, 0]]) == [37]


def history(ids: Any, counts: Any, prompt: Any) -> dict[str, Any]:
    return {"history_start": [0, len(ids)], "history_ids": ids, "history_counts": counts, "history_prompt": prompt}


def test_penalties() -> None:
    seen = history([1, 3, 0], [1, 0, 0], [0, 1, 0])
    assert tokens(**seen, repetition=2.0) == [2]  # 1 and 3 halved to 1.5
    assert tokens(np.array([-1.0, -1.5, -3.0]), **history([0], [1], [0]), repetition=2.0) == [1]  # -1 doubled
    assert tokens(**seen, presence=0.5) == [3]  # a prompt's token is not "put out"
    assert tokens(**history([1, 3], [3, 1], [0, 0]), frequency=0.4) == [3]
    assert tokens(**history([1, 3], [3, 2], [0, 0]), frequency=0.6) == [2]
    assert tokens(**history([1, 3], [2, 1], [0, 0]), frequency=-0.5) == [1]


def test_penalties_come_before_temperature_and_after_bias() -> None:
    # (2 + 2) / 2 = 2 < 3: the bias is penalised too
    assert tokens(np.array([2.0, 3.0]), bias_start=[0, 1], bias_ids=[0], bias_values=[2.0], **history([0], [1], [0]),
                  repetition=2.0) == [1]  # fmt: skip


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution(temperature: float) -> None:
    found = share(temperature=temperature)
    for token, p in enumerate(softmax(LOGITS / temperature)):
        assert found.get(token, 0) == pytest.approx(p, abs=4 * (p * (1 - p) / 4000) ** 0.5 + 1e-9)


def test_top_k_keeps_the_lowest_of_equals() -> None:
    assert set(share(top_k=1)) == {1}
    assert set(share(top_k=2)) == {1, 3}
    assert set(share(top_k=3)) == {1, 3, 2}
    assert set(share(top_k=99)) == set(range(6))


def test_top_p_keeps_the_smallest_prefix() -> None:
    p = softmax(LOGITS)
    assert set(share(top_p=float(p[1]) * 0.99)) == {1}
    assert set(share(top_p=float(p[1]) * 1.01)) == {1, 3}
    assert set(share(top_p=float(p[1] + p[3] + p[2]) * 1.0001)) == {1, 3, 2, 0}
    # the share is of what top_k left: half of two equals is one
    assert set(share(top_k=2, top_p=0.5)) == {1}


def test_min_p_is_relative_to_the_best() -> None:
    assert set(share(min_p=0.99)) == {1, 3}
    assert set(share(min_p=float(np.exp(-1.0)) * 0.999)) == {1, 3, 2}
    assert set(share(min_p=0.97, temperature=50.0)) >= {1, 3, 2}


def test_typical_p_keeps_what_is_nearest_the_entropy() -> None:
    p = np.array([0.7, 0.1, 0.1, 0.06, 0.04])  # entropy 1.01 nats; surprise 0.36, 2.30, 2.30, 2.81, 3.22
    x = np.log(p)
    assert set(share(logits=x, typical_p=0.5)) == {0}
    assert set(share(logits=x, typical_p=0.75)) == {0, 1, 2}  # equals stay together
    assert set(share(logits=x, typical_p=0.95)) == {0, 1, 2, 3}
    # 60 equals are more typical than the one likeliest: it is left out
    wide = np.log(np.array([0.4, *[0.01] * 60]))
    assert 0 not in share(logits=wide, typical_p=0.5)
    assert set(share(logits=wide, typical_p=0.7)) == set(range(61))
    # of what top_k and min_p leave
    assert set(share(logits=wide, typical_p=0.5, top_k=1)) == {0}
    assert set(share(logits=x, typical_p=0.999, min_p=0.1)) == {0, 1, 2}


@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.98), st.sampled_from([2, 7, 60]))
def test_typical_p_is_transformers(seed: int, p: float, vocab: int) -> None:
    process = pytest.importorskip("transformers.generation.logits_process")
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(seed).standard_normal(vocab).astype(np.float32) * 3
    x = -np.sort(-x)
    kept = process.TypicalLogitsWarper(mass=p)(None, torch.from_numpy(x.astype(np.float64))[None])[0]
    np.testing.assert_array_equal(typical(x, np.exp(x.astype(np.float64) - x[0]), p), np.isfinite(kept.numpy()))


def test_a_draw_is_a_function_of_seed_and_number_alone() -> None:
    wide = np.zeros((1, 1000), np.float32)
    one = sample(wide, sampling([0] * 5, 1000, temperature=1.0, seed=7, draw=np.arange(5))).token_ids
    other = [sample(wide, sampling([0], 1000, temperature=1.0, seed=7, draw=d)).token_ids[0] for d in range(5)]
    assert one.tolist() == other
    assert len(set(other)) > 1
    assert one.tolist() == [int(uniform(7, d) * 1000) for d in range(5)]


def test_invalid_rows_are_told_and_harm_no_other() -> None:
    rows = np.tile(LOGITS, (5, 1))
    rows[0, 2], rows[1, 2], rows[2, :], rows[3, 2] = np.nan, np.inf, -np.inf, -np.inf
    out = sample(rows, sampling(range(5), 6, num_logprobs=1))
    assert out.invalid.tolist() == [1, 1, 1, 0, 0]
    assert out.token_ids.tolist() == [-1, -1, -1, 1, 1]
    assert sample(rows[4:], sampling([0], 6, mask_row=0, masks=[[0]])).invalid.tolist() == [1]


def scored(**columns: Any) -> StepOutput:
    return sample(LOGITS[None], sampling([0, 0, 0], 6, **columns))


def test_scores_are_of_the_raw_distribution() -> None:
    out = scored(num_logprobs=[-1, 0, 4], temperature=[0, 0, 1e-6], bias_start=[0, 0, 0, 1], bias_ids=[4],
                 bias_values=[50.0])  # fmt: skip
    logprobs = np.log(softmax(LOGITS))
    assert out.token_ids.tolist() == [1, 1, 4]
    assert out.logprobs is not None
    assert out.ranks is not None
    assert out.top_ids is not None
    assert out.top_logprobs is not None
    np.testing.assert_allclose(out.logprobs[1:], logprobs[[1, 4]], rtol=1e-6)
    assert out.ranks[1:].tolist() == [1, 6]
    assert out.top_ids.tolist() == [[-1] * 4, [-1] * 4, [1, 3, 2, 0]]
    np.testing.assert_allclose(out.top_logprobs[2], logprobs[[1, 3, 2, 0]], rtol=1e-6)
    assert np.isneginf(out.top_logprobs[:2]).all()


def test_targets_are_scored_and_not_drawn() -> None:
    out = scored(target=[5, 2, -1], num_logprobs=0)
    assert out.token_ids.tolist() == [5, 2, 1]
    assert out.ranks is not None
    assert out.ranks.tolist() == [5, 3, 1]
    assert out.top_ids is not None
    assert out.top_ids.shape == (3, 0)


def test_no_scores_unless_asked() -> None:
    out = scored()
    assert (out.logprobs, out.ranks, out.top_ids, out.top_logprobs) == (None, None, None, None)


def test_the_logits_are_left_as_they_were() -> None:
    rows = LOGITS[None].copy()
    sample(rows, sampling([0], 6, temperature=0.5, bias_start=[0, 1], bias_ids=[0], bias_values=[9.0]))
    np.testing.assert_array_equal(rows[0], LOGITS)
