"""The C++ sampler against its meaning in numpy, on any wishes, vocabularies, instruction sets and threads."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from penstock import _native
from penstock.executors import sampling as meaning
from penstock.types import SamplingBatch, StepOutput
from tests.harness import sampling

ISAS = _native.possible_isas()


def native(logits: NDArray[np.float32], batch: SamplingBatch, isa: str = "", threads: int = 1) -> StepOutput:
    n, most = len(batch.row), int(batch.num_logprobs.max(initial=-1))
    out = StepOutput(np.full(n, -7, np.int32), np.full(n, 7, np.uint8))
    if most >= 0:
        out.logprobs, out.ranks = np.zeros(n, np.float32), np.zeros(n, np.int32)
        out.top_ids, out.top_logprobs = np.zeros((n, most), np.int32), np.zeros((n, most), np.float32)
    _native.sample(logits, batch, out, isa, threads)
    return out


def agree(logits: NDArray[np.float32], batch: SamplingBatch) -> None:
    with np.errstate(all="ignore"):
        want = meaning.sample(logits, batch)
    for isa, threads in ((ISAS[0], 1), (ISAS[-1], 1), (ISAS[-1], 3)):
        got = native(logits, batch, isa, threads)
        for name in ("token_ids", "invalid", "ranks", "top_ids"):
            np.testing.assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)
        for name in ("logprobs", "top_logprobs"):
            if getattr(want, name) is not None:
                np.testing.assert_allclose(getattr(got, name), getattr(want, name), rtol=1e-6, atol=1e-6, err_msg=name)


SHARES = st.one_of(st.sampled_from([0.05, 0.5, 0.9, 0.95, 1.0]), st.floats(1 / 1024, 1, width=32))


@st.composite
def wishes(draw: Any, vocab: int) -> dict[str, Any]:
    """Columns of one entry."""
    ids = draw(st.lists(st.integers(0, vocab - 1), max_size=6, unique=True))
    biased = draw(st.lists(st.integers(0, vocab - 1), max_size=3, unique=True))
    n = len(ids)
    return {
        "target": draw(st.sampled_from([-1, -1, -1, vocab - 1])),
        "temperature": draw(st.sampled_from([0.0, 1.0, 0.7, 0.1, 3.0])),
        "top_k": draw(st.sampled_from([0, 0, 1, 2, 5, 40, vocab, 2 * vocab])),
        "top_p": draw(SHARES),
        "min_p": draw(st.sampled_from([0.0, 0.0, 0.01, 0.2, 1.0])),
        "typical_p": draw(st.one_of(st.just(1.0), st.just(1.0), SHARES)),
        "repetition": draw(st.sampled_from([1.0, 1.3, 0.5])),
        "presence": draw(st.sampled_from([0.0, 0.5, -1.0])),
        "frequency": draw(st.sampled_from([0.0, 0.25, -0.5])),
        "seed": draw(st.integers(0, 2**64 - 1)),
        "draw": draw(st.integers(0, 1000)),
        "num_logprobs": draw(st.sampled_from([-1, 0, 1, 5, vocab])),
        "history_ids": ids,
        "history_counts": draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)),
        "history_prompt": draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)),
        "bias_ids": biased,
        "bias_values": [draw(st.sampled_from([2.0, -3.0, 100.0, -np.inf])) for _ in biased],
        "mask": draw(st.one_of(st.none(), st.integers(0, 2**31))),
    }


def batch_of(entries: list[dict[str, Any]], rows: list[int], vocab: int) -> SamplingBatch:
    columns: dict[str, Any] = {}
    words = -(-vocab // 32)
    flat = ("history_ids", "history_counts", "history_prompt", "bias_ids", "bias_values")
    for name in entries[0]:
        if name in flat:
            columns[name] = [v for e in entries for v in e[name]]
        elif name != "mask":
            columns[name] = [e[name] for e in entries]
    for name in ("history", "bias"):
        columns[f"{name}_start"] = np.cumsum([0, *(len(e[f"{name}_ids"]) for e in entries)])
    seeds = [e["mask"] for e in entries if e["mask"] is not None]
    columns["mask_row"] = [
        sum(f["mask"] is not None for f in entries[:i]) if e["mask"] is not None else -1 for i, e in enumerate(entries)
    ]
    masks = [np.random.default_rng(s).integers(0, 2**32, words, dtype=np.uint64).astype(np.uint32) for s in seeds]
    columns["masks"] = np.stack(masks) if masks else np.zeros((0, words))
    return sampling(rows, vocab, **columns)


@st.composite
def cases(draw: Any) -> tuple[NDArray[np.float32], SamplingBatch]:
    vocab = draw(st.sampled_from([1, 2, 7, 33, 64, 200, 1500, 3000]))
    rows = draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = rng.standard_normal((rows, vocab)) * draw(st.sampled_from([0.0, 0.1, 1.0, 5.0, 30.0]))
    if draw(st.booleans()):
        logits = np.round(logits)  # ties
    logits = logits.astype(np.float32)
    if draw(st.booleans()):
        logits[rng.integers(rows), rng.integers(vocab)] = draw(st.sampled_from([-np.inf, np.inf, np.nan, 1e30, -0.0]))
    entries = draw(st.lists(wishes(vocab), min_size=1, max_size=5))
    return logits, batch_of(entries, [draw(st.integers(0, rows - 1)) for _ in entries], vocab)


@settings(max_examples=150)
@given(cases())
def test_any_wishes(case: tuple[NDArray[np.float32], SamplingBatch]) -> None:
    agree(*case)


FLAT = {"temperature": 1.0, "seed": 5}


@pytest.mark.parametrize(
    "wish",
    [
        {}, {"top_k": 50}, {"top_k": 20000}, {"top_p": 0.9}, {"top_p": 0.9999}, {"min_p": 0.05},
        {"top_k": 3000, "top_p": 0.5}, {"top_p": 0.8, "min_p": 0.001}, {"temperature": 20.0, "top_p": 0.99},
        {"temperature": 0.05, "top_p": 0.3}, {"typical_p": 0.2}, {"typical_p": 0.95}, {"typical_p": 0.5, "top_p": 0.9},
        {"typical_p": 0.3, "top_k": 5000}, {"typical_p": 0.9, "min_p": 0.001, "temperature": 2.0},
    ],
)  # fmt: skip
@pytest.mark.parametrize("spread", [0.5, 4.0])
def test_a_large_vocabulary(wish: dict[str, Any], spread: float) -> None:
    """Beyond what is simply sorted: candidates are told apart by halves."""
    vocab, draws = 40_000, 10
    logits = (np.random.default_rng(1).standard_normal((1, vocab)) * spread).astype(np.float32)
    agree(logits, sampling([0] * draws, vocab, draw=np.arange(draws), num_logprobs=20, **(FLAT | wish)))


def test_draws_follow_the_distribution() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.125, 0.125]], np.float32))
    n = 20_000
    out = native(logits, sampling([0] * n, 4, temperature=1.0, seed=11, draw=np.arange(n)))
    shares = np.bincount(out.token_ids, minlength=4) / n
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.125, 0.125], atol=0.015)


def test_uniform_logits_are_drawn_evenly_at_a_large_vocabulary() -> None:
    vocab, n = 32_768, 4000
    out = native(np.zeros((1, vocab), np.float32), sampling([0] * n, vocab, temperature=1.0, draw=np.arange(n)))
    quarters = np.bincount(out.token_ids // (vocab // 4), minlength=4) / n
    np.testing.assert_allclose(quarters, 0.25, atol=0.03)


def test_an_entry_does_not_see_its_neighbours() -> None:
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((4, 500)).astype(np.float32)
    columns = {"temperature": 1.0, "top_p": 0.9, "seed": [5, 6, 7, 8], "num_logprobs": 3}
    all_at_once = native(logits, sampling([0, 1, 2, 3], 500, **columns), threads=2)
    for i in range(4):
        alone = native(logits[i : i + 1], sampling([0], 500, **(columns | {"seed": 5 + i})))
        for field in fields(StepOutput):
            if (value := getattr(all_at_once, field.name)) is not None:
                np.testing.assert_array_equal(value[i], getattr(alone, field.name)[0])
