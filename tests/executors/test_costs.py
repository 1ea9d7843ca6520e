"""Bytes and operations of ops, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from penstock import LLM, SamplingParams
from penstock.cli.profile import Peaks, label
from penstock.cli.watch import watch
from penstock.executors.base import Held, Traced
from penstock.executors.costs import Cost, Costs
from penstock.models.program import KVSpec, Op, Program, Value, WeightSpec
from penstock.types import Batch
from tests import tiny

PROMPT = [5, 6, 7, 8, 9]
HIDDEN, INNER, HEADS, KV_HEADS, HEAD, VOCAB = 48, 80, 4, 2, 12, 320


class Collect:
    def __init__(self, costs: Costs) -> None:
        self.costs, self.steps = costs, list[dict[str, Cost]]()

    def step(self, batch: Batch) -> None:
        self.batch = batch
        self.steps.append({})

    def op(self, traced: Traced) -> None:
        self.steps[-1].setdefault(label(traced.op), self.costs.of(traced, self.batch))  # the first layer's


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Cost]]:
    folder = tiny.make(tmp_path_factory.mktemp("costs"))
    with LLM(str(folder), dtype="float32", kv_cache_dtype="float32", threads=1) as llm:
        executor = llm.model.engine.executor
        collect = Collect(Costs(executor.program, executor.held, executor.limits.kv_dtype))
        watch(llm.model.engine, [collect])
        llm.generate(PROMPT, SamplingParams(temperature=0, max_tokens=2, ignore_eos=True))
    return collect.steps


def test_prompt_and_decode_steps(steps: list[dict[str, Cost]]) -> None:
    assert len(steps) == 2
    for cost, rows in zip(steps, (len(PROMPT), 1)):
        assert cost["linear:attn.q+k+v"].flops == 2 * rows * HIDDEN * HEAD * (HEADS + 2 * KV_HEADS)
        assert cost["linear:mlp.down"].flops == 2 * rows * HIDDEN * INNER
        assert cost["add"] == Cost(3 * 4 * rows * HIDDEN, rows * HIDDEN)
        assert cost["store"].bytes == 2 * 2 * 4 * rows * KV_HEADS * HEAD
        assert cost["select"].bytes == 2 * 4 * HIDDEN


def test_the_head_is_computed_for_rows_that_sample(steps: list[dict[str, Cost]]) -> None:
    assert [cost["linear:embed"].flops for cost in steps] == [2 * HIDDEN * VOCAB] * 2


def test_attention_counts_what_each_query_sees(steps: list[dict[str, Cost]]) -> None:
    pairs = [sum(range(1, 6)), 6]
    assert [cost["attention"].flops for cost in steps] == [4 * p * HEADS * HEAD for p in pairs]
    values = [2 * 4 * rows * HEADS * HEAD for rows in (5, 1)]
    caches = [2 * 4 * keys * KV_HEADS * HEAD for keys in (5, 6)]
    assert [cost["attention"].bytes for cost in steps] == [a + b for a, b in zip(values, caches)]


def test_weights_are_counted_as_they_are_held(steps: list[dict[str, Cost]]) -> None:
    whole = 4 * HIDDEN * INNER
    assert whole <= steps[1]["linear:mlp.down"].bytes <= 3 * whole  # packed in tiles, so a little more
    assert steps[1]["embed"].bytes < 4 * 4 * HIDDEN * 3


def batch(tokens: int, contexts: list[int], starts: list[int]) -> Any:
    zeros = np.zeros(tokens, np.int32)
    return Batch(
        zeros, zeros[None], zeros.astype(np.int64), np.array(starts, np.int32), np.array(contexts, np.int32),
        np.zeros((len(contexts), 1), np.int32), zeros, np.zeros(0, np.int32),
    )  # fmt: skip


def mixture() -> Program:
    ops = (
        Op("linear", ("x",), ("r",), ("router", "")),
        Op("moe", ("x", "r"), ("y",), ("gate", "up", "down"),
           {"experts": 4, "top_k": 2, "renormalise": True, "activation": "silu", "width": 6}),
    )  # fmt: skip
    specs = [WeightSpec("router", (4, 8), "matrix")]
    specs += [
        WeightSpec(n, (4, *shape), "experts") for n, shape in (("gate", (6, 8)), ("up", (6, 8)), ("down", (8, 6)))
    ]
    values = {n: Value(n, w) for n, w in (("x", 8), ("r", 4), ("y", 8))}
    return Program("m", ops, values, {s.name: s for s in specs}, (KVSpec(1, 4),), {})


@pytest.mark.parametrize(
    ("router", "experts"),
    [
        ([[9, 8, 0, 0]], 2),
        ([[9, 8, 0, 0], [8, 9, 0, 0]], 2),
        ([[9, 8, 0, 0], [9, 0, 8, 0]], 3),
        ([[0, 1, 2, 3]] * 9, 2),
    ],
)
def test_a_mixture_reads_the_experts_that_are_chosen(router: list[list[float]], experts: int) -> None:
    program = mixture()
    costs = Costs(program, lambda name: Held("int8", "i8", 48 * 4), "bf16")
    rows = len(router)
    step = batch(rows, [rows], [0, rows])
    scores, y = np.array(router, np.float32), np.zeros((rows, 8), np.float32)
    costs.of(Traced(0, program.ops[0], {"r": scores}, 0.1), step)
    cost = costs.of(Traced(1, program.ops[1], {"y": y}, 0.1), step)
    assert cost.bytes == 4 * rows * (8 + 4 + 8) + 3 * 48 * experts
    assert cost.flops == 2 * rows * 2 * 3 * 48
    assert cost.arithmetic == "i8"


def test_a_window_bounds_what_is_read() -> None:
    op = Op("attention", ("q",), ("y",), (), {"layer": 0, "heads": 2, "head_dim": 4, "window": 3})
    values = {n: Value(n, 8) for n in ("q", "y")}
    program = Program("w", (op,), values, {}, (KVSpec(1, 4, 3),), {})
    costs = Costs(program, lambda name: Held("f32", "f32", 0), "bf16")
    traced = Traced(0, op, {"y": np.zeros((2, 8), np.float32)}, 0.1)
    cost = costs.of(traced, batch(2, [10, 2], [0, 1, 2]))  # one sees 3 of 10 rows, the other both of 2
    assert cost.flops == 4 * (3 + 2) * 2 * 4
    assert cost.bytes == 2 * 4 * 2 * 8 + 2 * (3 + 2) * 4 * 2
    assert cost.arithmetic == "bf16"


def test_no_rows_cost_nothing() -> None:
    values = {"x": Value("x", 8, "logits"), "y": Value("y", 4, "logits")}
    op = Op("linear", ("x",), ("y",), ("router", ""))
    program = Program("h", (op,), values, {"router": WeightSpec("router", (4, 8), "matrix")}, (KVSpec(1, 4),), {})
    costs = Costs(program, lambda name: Held("f32", "f32", 128), "f32")
    assert costs.of(Traced(0, op, {"y": np.zeros((0, 4), np.float32)}, 0.1), batch(2, [2], [0, 2])) == Cost()


def test_the_least_time_is_the_longer_of_moving_and_computing() -> None:
    peaks = Peaks(10.0, {"f32": 4.0, "bf16": 8.0, "i8": 0.0})
    assert peaks.least(Cost(20, 4)) == 2
    assert peaks.least(Cost(20, 24, "bf16")) == 3
    assert peaks.least(Cost(0, 24, "i8")) == 6  # no such instruction: float32
