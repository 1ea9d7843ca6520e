"""Batches that reach outside something are told, before anything is changed; the executor goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from penstock.errors import ExecutionError
from penstock.types import Batch
from tests.executors.native.some import IDS, good, runner
from tests.harness import sampling


def given(batch: Batch, field: str, value: Any) -> Batch:
    """The batch with another array."""
    changed: dict[str, Any] = {field: value}
    return replace(batch, **changed)


def change(batch: Batch, field: str, at: Any, value: Any) -> Batch:
    """The batch with another entry in one of its arrays."""
    array = getattr(batch, field).copy()
    array[at] = value
    return given(batch, field, array)


BAD: list[tuple[str, Any, Any]] = [
    ("token_ids", 0, 30), ("token_ids", 1, -1), ("slots", 2, 24 * 16), ("slots", 2, -1), ("positions", (0, 0), -1),
    ("query_start", 1, 9), ("query_start", 0, 1), ("query_start", 2, 7), ("query_start", 1, 0),
    ("query_start", 1, -2147483648),
    ("context_lens", 0, 4), ("context_lens", 0, 513), ("context_lens", 1, 2147483647), ("context_lens", 0, 17),
    ("block_tables", (0, 0), 24), ("block_tables", (1, 0), -1), ("logits_rows", 0, 8), ("logits_rows", 0, -1),
    ("prompt_lens", 0, -1),
]  # fmt: skip


@pytest.mark.parametrize(("field", "at", "value"), BAD)
@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_an_index_out_of_range_is_told(field: str, at: Any, value: Any, mode: str) -> None:
    run = runner(mode=mode)
    with pytest.raises(ExecutionError, match="bad batch"):
        run.executor.run(change(good(run), field, at, value))
    assert run.executor.run(good(run)).invalid.tolist() == [0, 0]


@pytest.mark.parametrize(
    "field", ["slots", "positions", "context_lens", "prompt_lens", "query_start", "token_ids", "block_tables"]
)
def test_arrays_of_wrong_size_or_type(field: str) -> None:
    run = runner()
    batch = good(run)
    array = getattr(batch, field)
    with pytest.raises(ExecutionError, match="bad batch"):
        run.executor.run(given(batch, field, array[..., :-1] if field != "block_tables" else array[:-1]))
    for wrong in (array.reshape(1, 1, -1), None, "text"):
        with pytest.raises(ExecutionError, match=field):
            run.executor.run(given(batch, field, wrong))


def test_too_much_for_the_limits() -> None:
    run = runner(max_tokens=16, max_seqs=2, max_logits_rows=4)
    for work, says in (([20], "20 tokens"), ([2, 2, 2], "3 sequences"), ([6], "6 rows of logits")):
        with pytest.raises(ExecutionError, match=says):
            run.executor.run(run.batch([(run.add(IDS), n) for n in work]))
    with pytest.raises(ExecutionError, match="bidirectional"):
        run.executor.run(run.batch([(run.add(IDS, bidirectional=9), 4)]))
    with pytest.raises(ExecutionError, match="adapters"):
        run.executor.run(run.batch([(run.add(IDS), 4)], adapters=np.ones(1, np.int32)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"target": 30}, {"target": -2}, {"temperature": -1.0}, {"temperature": np.nan}, {"top_p": 1.5}, {"min_p": -0.1},
        {"typical_p": 1.5}, {"typical_p": np.nan},
        {"top_k": -1}, {"repetition": 0.0}, {"presence": np.nan}, {"num_logprobs": -2}, {"mask_row": 0},
        {"history_start": [0, 0, 1]}, {"history_start": [0, 1, 0], "history_ids": [1]}, {"bias_start": [1, 0, 0]},
        {"bias_start": [0, 0, 1], "bias_ids": [30], "bias_values": [1.0]},
        {"bias_start": [0, 0, 1], "bias_ids": [3], "bias_values": []},
        {"mask_row": 0, "masks": np.zeros((1, 0))},
    ],
)  # fmt: skip
def test_sampling_out_of_range_is_told(wrong: dict[str, Any]) -> None:
    run = runner()
    with pytest.raises(ExecutionError, match="bad sampling batch"):
        run.executor.run(replace(good(run), sampling=sampling([0, 7], 30, **wrong)))
    with pytest.raises(ExecutionError, match="bad sampling batch: row"):
        run.executor.run(replace(good(run), sampling=sampling([0, 8], 30)))
