"""Masks of structured answers over the native executor: made while its step runs, and the same answers for it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from penstock import LLM, SamplingParams
from penstock.types import U32, Constraint
from tests import tiny

pytest.importorskip("llguidance", reason="llguidance (the extra 'structured') is not installed")
pytest.importorskip("penstock._native", reason="the native executor is not built")

PATIENCE = 20.0


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    folder = tiny.make(tmp_path_factory.mktemp("tiny"))
    with LLM(folder, kv_cache_memory=1 << 22, max_num_seqs=16, threads=1, executor="native") as found:
        yield found


class Order:
    """What has happened, and two who wait for each other."""

    def __init__(self) -> None:
        self.mask_begun, self.forward_ended = threading.Event(), threading.Event()
        self.steps = 0


class Plan:
    """The native plan. Its forward part begins only when a mask is being made."""

    def __init__(self, plan: Any, order: Order) -> None:
        self._plan, self._order = plan, order

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plan, name)

    def forward(self, batch: Any, output: Any) -> None:
        assert self._order.mask_begun.wait(PATIENCE), "no mask was begun while the step ran"
        self._order.mask_begun.clear()
        self._plan.forward(batch, output)
        self._order.steps += 1
        self._order.forward_ended.set()


class Waiting:
    """A constraint whose masks are done only when the step's forward part has ended."""

    def __init__(self, inner: Constraint, order: Order) -> None:
        self._inner, self._order = inner, order

    def mask(self) -> U32:
        self._order.mask_begun.set()
        assert self._order.forward_ended.wait(PATIENCE), "the step did not run while a mask was made"
        self._order.forward_ended.clear()
        return self._inner.mask()

    def accept(self, token: int) -> None:
        self._inner.accept(token)

    def copy(self) -> Waiting:
        return Waiting(self._inner.copy(), self._order)


def test_each_mask_is_made_while_its_step_runs(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    params = SamplingParams(structured_outputs={"regex": "[a-c]{9}x"}, max_tokens=30, seed=4)
    (plain,) = llm.generate("hello", params)
    order = Order()
    executor: Any = llm.model.executor
    monkeypatch.setattr(executor, "_static", replace(executor._static, plan=Plan(executor._static.plan, order)))
    constraint = llm.frontend.constrain(params)
    assert constraint is not None
    llm.frontend.add("r", llm.frontend.encode("hello"), params, constraint=Waiting(constraint, order))
    outputs = []
    while llm.model.engine.has_work:
        outputs += llm.frontend.step()
    assert order.steps == len(outputs[-1].outputs[0].token_ids)
    assert list(outputs[-1].outputs[0].token_ids) == list(plain.outputs[0].token_ids)
    assert re.fullmatch("[a-c]{9}x", outputs[-1].outputs[0].text)


def test_a_step_in_two_halves_gives_the_bits_of_a_whole_one(llm: LLM) -> None:
    """Masks that allow everything change nothing, whoever runs beside."""
    size = llm.model.architecture.vocab_size

    class Anything:
        def mask(self) -> U32:
            return np.full(-(-size // 32), 0xFFFFFFFF, np.uint32)

        def accept(self, token: int) -> None: ...

        def copy(self) -> Anything:
            return self

    params = SamplingParams(max_tokens=12, seed=5, n=2, logprobs=3, ignore_eos=True)
    found = []
    for constraint in (None, Anything()):
        llm.frontend.add("r", llm.frontend.encode("hello world"), params, constraint=constraint)
        outputs = []
        while llm.model.engine.has_work:
            outputs += llm.frontend.step()
        found.append([(list(o.token_ids), o.logprobs) for o in outputs[-1].outputs])
    assert found[0] == found[1]
