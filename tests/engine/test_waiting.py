"""Who waits, who is next; and a queue that has an end."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.engine.waiting import REMEMBERED, Turns
from penstock.errors import OverloadedError
from tests.engine.fake import greedy, make_engine, run_all


def order_of_start(requests: list[tuple[str, str, int]]) -> list[str]:
    """Ids in the order in which an engine of one seat begins them; requests are (id, client, priority)."""
    engine = make_engine(max_num_seqs=1, max_logits_rows=1)
    made = [
        engine.add(name, [i + 1], greedy(2), client=client, priority=p) for i, (name, client, p) in enumerate(requests)
    ]
    run_all(engine)
    return [r.request_id for r in sorted(made, key=lambda r: r.metrics.scheduled_time or 0)]


def test_one_client_is_served_in_order():
    names = [f"r{i}" for i in range(20)]
    assert order_of_start([(n, "a", 0) for n in names]) == names


def test_clients_take_turns():
    queue = [*((f"a{i}", "a", 0) for i in range(6)), ("b0", "b", 0), ("c0", "c", 0), ("b1", "b", 0)]
    assert order_of_start(queue) == ["a0", "b0", "c0", "a1", "b1", "a2", "a3", "a4", "a5"]


def test_priority_comes_before_turns():
    queue = [("a0", "a", 0), ("a1", "a", 0), ("b0", "b", 5), ("a2", "a", -1)]
    assert order_of_start(queue) == ["a2", "a0", "a1", "b0"]


def test_a_client_that_comes_late_is_not_paid_for_its_absence():
    engine = make_engine(max_num_seqs=1, max_logits_rows=1)
    for i in range(5):
        engine.add(f"a{i}", [1], greedy(1), client="a")
    for _ in range(3):
        engine.step()
    late = [engine.add(f"b{i}", [2], greedy(1), client="b") for i in range(3)]
    last = engine.add("a5", [1], greedy(1), client="a")
    run_all(engine)
    times = [r.metrics.scheduled_time or 0.0 for r in (*late, last)]
    assert times == sorted(times)  # b0 a3 b1 a4 b2 a5: turn about, not all of b's first or last


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60))
def test_nobody_waits_longer_than_the_others_take_turns(events):
    """Between two requests of one client that both wait, no other client is served more than twice: one turn apart."""
    turns, count = Turns(), 0
    waiting: list[Any] = []
    for client, serve in events:
        if serve and waiting:
            waiting.sort()
            turns.serve(waiting.pop(0)[0])
        else:
            count += 1
            waiting.append((turns.give(str(client)), count, client))
    served = [client for _, _, client in sorted(waiting)]
    for client in set(served):
        places = [i for i, c in enumerate(served) if c == client]
        for a, b in itertools.pairwise(places):
            between = served[a + 1 : b]
            assert all(between.count(c) <= 2 for c in between)


def test_clients_of_the_past_are_forgotten():
    turns = Turns()
    for i in range(10 * REMEMBERED):
        turns.serve(turns.give(str(i)) + 1)
    assert len(turns.last) <= REMEMBERED


def test_the_queue_is_bounded_in_tokens():
    engine = make_engine(max_queued_tokens=100)
    engine.add("a", [1] * 200, greedy(2))  # alone, any prompt may wait
    with pytest.raises(OverloadedError, match="max_queued_tokens"):
        engine.add("b", [1], greedy(2))
    engine.cancel("a")
    assert engine.scheduler.waiting_tokens == 0
    for i in range(4):
        engine.add(f"c{i}", [1] * 25, greedy(2))
    with pytest.raises(OverloadedError):
        engine.add("d", [1], greedy(2))
    run_all(engine)
    assert engine.scheduler.waiting_tokens == 0 and not engine.requests
