"""A prompt's vector: the same for any chunks, company, preemption and prefix hits; and nothing is left of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from penstock.errors import ContextLengthError, RequestError
from penstock.types import Batch, StepOutput
from tests.engine.fake import expected, greedy, make_engine


def hidden_of(context: tuple[int, ...]) -> np.ndarray:
    random = np.random.default_rng(abs(hash(context)) % (1 << 32))
    return random.standard_normal(5).astype(np.float32) * 1000


class Hidden:
    """The fake executor, with hidden states that depend on the whole context."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def run(self, batch: Batch) -> StepOutput:
        seen = {}
        sample = self.inner._sample
        self.inner._sample = lambda b, contexts: (seen.update(contexts), sample(b, contexts))[1]
        try:
            output = self.inner.run(batch)
        finally:
            del self.inner._sample
        if batch.return_hidden:
            output.hidden = np.stack([hidden_of(seen[i]) for i in range(batch.num_tokens)])
        return output


def engine_of(**options: Any) -> Any:
    engine = make_engine(**options)
    engine.executor = Hidden(engine.executor)
    return engine


def pooled(engine: Any) -> dict[str, np.ndarray]:
    found = {}
    while engine.has_work:
        for update in engine.step():
            if update.pooled is not None:
                assert update.finish_reason == "stop" and not update.token_ids
                found[update.request.request_id] = update.pooled
    return found


def direct(prompt: list[int], kind: str) -> np.ndarray:
    rows = [hidden_of(tuple(prompt[: i + 1])).astype(np.float64) for i in range(len(prompt))]
    total = np.zeros(5)
    for row in rows:
        total += row
    return (rows[-1] if kind == "last" else total / len(rows)).astype(np.float32)


@pytest.mark.parametrize("kind", ["mean", "last"])
def test_chunks_company_and_preemption_change_no_bit(kind):
    prompts = [[(7 * i + j) % 97 for j in range(3 + 11 * i)] for i in range(5)]
    for options in ({}, {"max_num_batched_tokens": 8}, {"prefill_chunk": 3}, {"num_blocks": 24}):
        engine = engine_of(**options)
        engine.add("talker", [1, 2, 3], greedy(40))
        for i, prompt in enumerate(prompts):
            engine.add(f"p{i}", prompt, greedy(1), pooling=kind)
            engine.add(f"again{i}", prompt, greedy(1), pooling=kind)
        found = pooled(engine)
        for i, prompt in enumerate(prompts):
            assert found[f"p{i}"].tobytes() == found[f"again{i}"].tobytes() == direct(prompt, kind).tobytes()
        assert engine.pool.used == 0 and not engine.requests


def test_a_preempted_mean_begins_anew():
    engine = engine_of(max_num_batched_tokens=8)
    request = engine.add("p", list(range(30)), greedy(1), pooling="mean")
    engine.step()
    engine.scheduler._preempt(request.sequences[0], type("S", (), {"drop": lambda self, seq: None})())
    assert pooled(engine)["p"].tobytes() == direct(list(range(30)), "mean").tobytes()


def test_generating_requests_beside_are_not_disturbed():
    engine = engine_of(max_num_batched_tokens=9)
    engine.add("p", list(range(50)), greedy(1), pooling="mean")
    engine.add("g", [5, 6], greedy(8))
    tokens = []
    while engine.has_work:
        for update in engine.step():
            tokens += update.token_ids
    assert tokens == expected([5, 6], 8)


def test_a_prompt_may_fill_the_context():
    engine = engine_of(max_model_len=16)
    engine.add("p", [1] * 16, greedy(1), pooling="last")
    assert pooled(engine)["p"].shape == (5,)
    with pytest.raises(ContextLengthError, match="17 tokens, more than the context of 16"):
        engine.add("q", [1] * 17, greedy(1), pooling="last")
    small = engine_of(num_blocks=2)
    with pytest.raises(ContextLengthError, match="KV cache of 8"):
        small.add("q", [1] * 9, greedy(1), pooling="last")
    with pytest.raises(RequestError, match="pooling must be one of mean, last"):
        small.add("q", [1], greedy(1), pooling="max")


def test_vectors_that_are_not_finite_are_an_error_of_their_request(monkeypatch):
    engine = engine_of()
    good = hidden_of((1,))
    monkeypatch.setattr(
        "tests.engine.test_pooling.hidden_of", lambda context: good * (np.nan if context[0] == 9 else 1)
    )
    engine.add("bad", [9, 1], greedy(1), pooling="mean")
    engine.add("good", [1, 1], greedy(1), pooling="mean")
    updates = engine.step()
    assert {u.request.request_id: u.error is None for u in updates} == {"bad": False, "good": True}
    assert engine.pool.used == 0 and not engine.requests


def test_a_cancelled_prompt_leaves_nothing():
    engine = engine_of(max_num_batched_tokens=8)
    engine.add("p", [1] * 40, greedy(1), pooling="mean")
    engine.step()
    engine.cancel("p")
    assert engine.pool.used == 0 and not engine.requests and not engine.has_work
