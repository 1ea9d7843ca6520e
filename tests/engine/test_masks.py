"""Masks are made beside the step: neither before it begins nor after it has ended."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from penstock.engine.engine import drain
from penstock.engine.sequence import bit_mask
from penstock.errors import ExecutionError
from penstock.types import U32, Batch, SamplingParams, StepOutput
from tests.engine.fake import VOCAB, FakeExecutor, expected, fake, greedy, make_engine, run_all
from tests.engine.test_engine import Alternating, assert_empty

PATIENCE = 20.0


class Meeting(FakeExecutor):
    """Its forward part goes on only when a mask is being made, and masks are done only when it has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.mask_begun, self.forward_ended = threading.Event(), threading.Event()

    def _sample(self, batch: Batch, contexts: dict[int, tuple[int, ...]]) -> StepOutput:
        if batch.sampling is not None and batch.sampling.ready is not None:
            assert self.mask_begun.wait(PATIENCE), "no mask was begun while the model ran"
            self.mask_begun.clear()
            self.forward_ended.set()
        return super()._sample(batch, contexts)


class Waiting(Alternating):
    """Even and odd tokens in turn, over a mask that waits for the model."""

    executor: Meeting

    def mask(self) -> U32:
        self.executor.mask_begun.set()
        assert self.executor.forward_ended.wait(PATIENCE), "the model did not run while a mask was made"
        self.executor.forward_ended.clear()
        return super().mask()


def test_masks_are_made_while_the_model_runs() -> None:
    engine = make_engine()
    executor = Meeting()
    engine.executor = executor
    constraint = Waiting(100)
    constraint.executor = executor
    engine.add("r", [1, 2, 3], greedy(6), constraint=constraint)
    assert [t % 2 for t in run_all(engine)["r", 0]] == [0, 1] * 3
    assert_empty(engine)


class Failing:
    """A constraint whose mask fails in the given way, after some tokens."""

    def __init__(self, error: BaseException, after: int) -> None:
        self.error, self.left = error, after

    def mask(self) -> U32:
        if self.left <= 0:
            raise self.error
        return bit_mask(range(VOCAB), VOCAB)

    def accept(self, token: int) -> None:
        self.left -= 1

    def copy(self) -> Failing:
        return Failing(self.error, self.left)


class Panic(BaseException):
    """As libraries of other languages raise."""


@pytest.mark.parametrize("error", [ExecutionError("too hard"), RuntimeError("too hard"), Panic("too hard")])
@pytest.mark.parametrize("params", [{}, {"use_beam_search": True}])
def test_a_mask_that_fails_ends_its_answer_and_nobody_elses(error: BaseException, params: dict[str, Any]) -> None:
    engine = make_engine()
    engine.add("bad", [1, 2], greedy(8, n=2, **params), constraint=Failing(error, 2))
    engine.add("good", [1, 2, 3], greedy(6))
    found: dict[str, list[Any]] = {"bad": [], "good": []}
    for update in drain(engine):
        found[update.request.request_id].append(update)
    ends = [u for u in found["bad"] if u.finish_reason is not None]
    assert {u.index for u in ends} == {0, 1}
    assert all(u.finish_reason == "error" and "too hard" in (u.error or "") for u in ends)
    assert sum(len(u.token_ids) for u in found["bad"]) == (0 if params else 4)
    assert [t for u in found["good"] for t in u.token_ids] == expected([1, 2, 3], 6)
    assert_empty(engine)


def test_who_is_at_fault_is_told() -> None:
    """A constraint that says it cannot go on: the request. One that breaks: we."""
    engine = make_engine()
    engine.add("asked", [1, 2], greedy(8), constraint=Failing(ExecutionError("too hard"), 0))
    engine.add("broken", [1, 3], greedy(8), constraint=Failing(RuntimeError("oh"), 0))
    engine.add("poisoned", [1, 90], greedy(8))
    fake(engine).poison = 90
    faults = {u.request.request_id: u.mistake for u in drain(engine) if u.finish_reason == "error"}
    assert faults == {"asked": True, "broken": False, "poisoned": False}


def test_a_step_that_fails_leaves_no_mask_in_the_making() -> None:
    engine = make_engine()
    made: list[int] = []

    class Slow(Alternating):
        def mask(self) -> U32:
            threading.Event().wait(0.05)
            made.append(1)
            return super().mask()

    engine.add("r", [1, 2], greedy(4), constraint=Slow(9))
    fake(engine).fail_next = True
    (update,) = engine.step()
    assert update.error == "out of luck"
    assert made == [1]
    assert_empty(engine)


def test_masks_of_the_request_and_of_its_constraint_hold_together() -> None:
    engine = make_engine()
    allowed = tuple(range(0, VOCAB, 3))
    params = SamplingParams(temperature=0.0, max_tokens=6, allowed_token_ids=allowed)
    engine.add("both", [5], params, constraint=Alternating(100))
    engine.add("one", [5], params)
    found = run_all(engine)
    assert all(t % 3 == 0 for tokens in found.values() for t in tokens)
    assert [t % 2 for t in found["both", 0]] == [0, 1] * 3
    engine.masks.close()
    engine.add("again", [5], params, constraint=Alternating(100))
    assert run_all(engine)["again", 0] == found["both", 0]
