"""Green lists and the detector that counts them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import RequestError
from penstock.watermark import HASH_KEY, MAX_BYTES, Watermark, detect, green_list

VOCAB = 500


@settings(max_examples=40)
@given(st.integers(0, 1 << 20), st.integers(4, 5000), st.sampled_from([0.25, 0.5, 0.9]))
def test_lists_are_those_of_torch(previous: int, vocab: int, gamma: float) -> None:
    """The paper's code: ``randperm`` of a generator seeded with key times token, its first places."""
    torch = pytest.importorskip("torch")
    count = int(vocab * gamma)
    shuffled = torch.randperm(vocab, generator=torch.Generator().manual_seed(HASH_KEY * previous))
    expected = np.zeros(vocab, bool)
    expected[shuffled[:count].numpy()] = True
    assert np.array_equal(green_list(previous, vocab, gamma), expected)


def test_lists_are_kept_within_a_bound_and_stay_what_they_are() -> None:
    small = Watermark(VOCAB, 0.25, 1.5)
    for previous in (1, 2, 3, 1, 1):
        ids, values = small.bias(previous)
        assert np.array_equal(ids, np.flatnonzero(green_list(previous, VOCAB, 0.25)))
        assert values.dtype == np.float32
        assert set(values.tolist()) == {1.5}
    assert len(small._lists) == 3
    assert Watermark(128_000, 0.5, 2.0)._most * 128_000 // 8 < MAX_BYTES
    tight = Watermark(VOCAB, 0.5, 2.0)
    tight._most = 2
    for previous in (1, 2, 1, 3):
        tight.bias(previous)
    assert list(tight._lists) == [1, 3]


def marked(count: int) -> list[int]:
    rng = np.random.default_rng(0)
    tokens = [7]
    while len(tokens) < count:
        tokens.append(int(rng.choice(np.flatnonzero(green_list(tokens[-1], VOCAB)))))
    return tokens


def test_the_detector_tells_marked_text_from_chance() -> None:
    found = detect(marked(101), VOCAB, distinct=False)
    assert found.green == found.scored == 100
    assert found.z == pytest.approx(10)
    assert found.p_value < 1e-20
    rng = np.random.default_rng(1)
    others = [detect(rng.integers(0, VOCAB, 201).tolist(), VOCAB) for _ in range(50)]
    assert max(abs(each.z) for each in others) < 4
    assert abs(float(np.mean([each.z for each in others]))) < 0.6


def test_repetition_proves_nothing() -> None:
    again = marked(5) * 40
    assert detect(again, VOCAB).scored == 5
    assert detect(again, VOCAB, distinct=False).scored == len(again) - 1
    assert math.isclose(detect(again[:6], VOCAB).z, detect(again, VOCAB).z)


@pytest.mark.parametrize(
    ("tokens", "gamma", "word"),
    [([1], 0.5, "two"), ([], 0.5, "two"), ([1, VOCAB], 0.5, "below"), ([-1, 2], 0.5, "ids"), ([1, 2], 0.0, "gamma"),
     ([1, 2], 1.0, "gamma"), ([1, 2], 1e-9, "gamma")],
)  # fmt: skip
def test_what_cannot_be_scored_is_told(tokens: list[int], gamma: float, word: str) -> None:
    with pytest.raises(RequestError, match=word):
        detect(tokens, VOCAB, gamma)
