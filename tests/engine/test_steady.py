"""Steps counted on in place give an executor what steps built anew would give it."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.engine.engine import Engine
from penstock.engine.steady import MORE_BLOCKS
from penstock.types import Batch, StepOutput
from tests.engine.fake import VOCAB, greedy, make_engine


def batches(engine: Engine, jobs: list[tuple[int, int]], anew: bool) -> list[Batch]:
    """What the executor saw of ``jobs``, each a prompt's length and how many tokens follow."""
    seen: list[Batch] = []
    run = engine.executor.run

    def record(batch: Batch) -> StepOutput:
        seen.append(copy.deepcopy(batch))
        return run(batch)

    engine.executor.run = record  # type: ignore[method-assign]
    for i, (length, count) in enumerate(jobs):
        engine.add(str(i), [(7 * i + t) % VOCAB for t in range(length)], greedy(count))
    while engine.has_work:
        if anew:
            engine.builder._steady = None
        engine.step()
    return seen


def assert_same(one: Batch, other: Batch, block_size: int) -> None:
    for name in (field.name for field in dataclasses.fields(Batch)):
        a, b = getattr(one, name), getattr(other, name)
        if name == "block_tables":  # what lies behind a sequence's blocks is nobody's
            for s, length in enumerate(one.context_lens):
                used = -(-int(length) // block_size)
                np.testing.assert_array_equal(a[s, :used], b[s, :used])
        elif name == "sampling" and a is not None:
            for each in dataclasses.fields(a):
                np.testing.assert_array_equal(getattr(a, each.name), getattr(b, each.name), err_msg=each.name)
        else:
            np.testing.assert_array_equal(a, b, err_msg=name)


@settings(max_examples=60, deadline=None)
@given(
    jobs=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=6),
    block_size=st.sampled_from([1, 4, 16]),
    num_blocks=st.integers(64, 128),
)
def test_steps_that_go_on_are_those_built_anew(jobs: list[tuple[int, int]], block_size: int, num_blocks: int) -> None:
    found, wanted = (
        batches(make_engine(num_blocks, block_size, prefix_caching=False), jobs, anew) for anew in (False, True)
    )
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted):
        assert_same(one, other, block_size)


def test_an_answer_outgrows_its_block_table() -> None:
    count = 4 * MORE_BLOCKS
    found, wanted = (batches(make_engine(96, 2, prefix_caching=False), [(3, count)], anew) for anew in (False, True))
    assert found[-1].block_tables.shape[1] > MORE_BLOCKS
    for one, other in zip(found, wanted, strict=True):
        assert_same(one, other, 2)


def test_arrays_stay_where_they_are_while_nothing_but_tokens_changes() -> None:
    engine = make_engine()
    for i in range(3):
        engine.add(str(i), [i + 1] * 5, greedy(12))
    seen: list[Batch] = []
    run = engine.executor.run

    def record(batch: Batch) -> StepOutput:
        seen.append(batch)
        return run(batch)

    engine.executor.run = record  # type: ignore[method-assign]
    for _ in range(8):
        engine.step()
    assert len({id(batch) for batch in seen[2:]}) == 1
    engine.cancel("1")
    engine.step()
    assert seen[-1] is not seen[-2]
    assert seen[-1].num_seqs == 2
