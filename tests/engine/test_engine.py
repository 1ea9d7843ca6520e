"""The engine over an executor that notices every wrong slot: same tokens whatever happens around a request."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.engine.engine import Engine, drain
from penstock.engine.sequence import bit_mask
from penstock.errors import ContextLengthError, ExecutionError, OverloadedError, RequestError
from penstock.types import U32, SamplingParams
from tests.engine.fake import VOCAB, expected, fake, greedy, make_engine, run_all

prompts = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=40)


def assert_empty(engine: Engine) -> None:
    assert engine.pool.used == 0
    assert not engine.requests
    assert not engine.has_work
    assert len(engine.scheduler._seats) == engine.config.max_num_seqs


@settings(max_examples=150, deadline=None)
@given(
    jobs=st.lists(st.tuples(prompts, st.integers(1, 12)), min_size=1, max_size=12),
    block_size=st.sampled_from([1, 4, 16]),
    budget=st.integers(8, 40),
    chunk=st.integers(0, 9),
    spare=st.integers(0, 30),
    caching=st.booleans(),
)
def test_tokens_do_not_depend_on_company_chunks_blocks_or_preemption(
    jobs: list[tuple[list[int], int]], block_size: int, budget: int, chunk: int, spare: int, caching: bool
) -> None:
    longest = max(len(p) + n for p, n in jobs)
    engine = make_engine(
        num_blocks=-(-longest // block_size) + spare,
        block_size=block_size,
        max_num_batched_tokens=budget,
        prefill_chunk=chunk,
        prefix_caching=caching,
    )
    for i, (prompt, count) in enumerate(jobs):
        engine.add(str(i), prompt, greedy(count))
    found = run_all(engine)
    for i, (prompt, count) in enumerate(jobs):
        assert found[str(i), 0] == expected(prompt, count)
    assert_empty(engine)


@settings(max_examples=80, deadline=None)
@given(
    prompt=prompts,
    n=st.integers(1, 6),
    count=st.integers(1, 10),
    block_size=st.sampled_from([1, 4, 16]),
    spare=st.integers(0, 40),
    chunk=st.integers(0, 7),
)
def test_answers_of_one_prompt_share_blocks_and_differ_only_by_seed(
    prompt: list[int], n: int, count: int, block_size: int, spare: int, chunk: int
) -> None:
    blocks = -(-(len(prompt) + max(count, 3)) // block_size) + spare
    engine = make_engine(num_blocks=blocks, block_size=block_size, prefill_chunk=chunk)
    request = engine.add("r", prompt, SamplingParams(n=n, seed=7, max_tokens=count))
    engine.add("other", prompt[::-1], greedy(3))
    found = run_all(engine)
    for index in range(n):
        assert found["r", index] == expected(prompt, count, request.seed_of(index))
    assert found["other", 0] == expected(prompt[::-1], 3)
    assert_empty(engine)


def test_forked_answers_hold_the_prompt_once() -> None:
    engine = make_engine(num_blocks=64, block_size=4)
    engine.add("r", list(range(16)), SamplingParams(n=4, seed=1, max_tokens=4))
    engine.step()
    assert engine.pool.used == 4
    engine.step()
    assert engine.pool.used == 4 + 4  # each answer now writes a block of its own


def test_prefix_hit_skips_computation_and_changes_no_token() -> None:
    engine = make_engine()
    prompt = list(range(30))
    engine.add("a", prompt, greedy(4))
    run_all(engine)
    before = sum(fake(engine).steps)
    request = engine.add("b", [*prompt[:20], 90, 91], greedy(4))
    assert run_all(engine)["b", 0] == expected([*prompt[:20], 90, 91], 4)
    assert request.metrics.cached_tokens == 20
    assert sum(fake(engine).steps) - before == 2 + 3
    assert engine.stats.prefix_hits == 20


def test_prefix_cache_never_serves_another_salt_or_length_class() -> None:
    engine = make_engine()
    prompt = list(range(20))
    for salt in ("", "tenant", "other"):
        request = engine.add(salt, prompt, greedy(2), cache_salt=salt)
        run_all(engine)
        assert request.metrics.cached_tokens == 0
    again = engine.add("x", prompt, greedy(2), cache_salt="tenant")
    run_all(engine)
    assert again.metrics.cached_tokens == 16


def test_generated_tokens_are_reused_by_the_next_turn() -> None:
    engine = make_engine()
    first = list(range(10))
    engine.add("a", first, greedy(10))
    answer = run_all(engine)["a", 0]
    request = engine.add("b", [*first, *answer, 5], greedy(2))
    run_all(engine)
    assert request.metrics.cached_tokens == 16


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_random_cancels_leave_nothing_behind(seed: int) -> None:
    rng = random.Random(seed)
    engine = make_engine(num_blocks=rng.randint(16, 64), block_size=4)
    live: list[str] = []
    for i in range(60):
        if rng.random() < 0.6:
            prompt = [rng.randrange(VOCAB) for _ in range(rng.randint(1, 30))]
            engine.add(str(i), prompt, SamplingParams(n=rng.randint(1, 3), max_tokens=rng.randint(1, 20)))
            live.append(str(i))
        if live and rng.random() < 0.3:
            engine.cancel(rng.choice(live))
        engine.step()
    for request_id in live:
        engine.cancel(request_id)
    assert_empty(engine)


def test_a_thousand_mixed_requests_with_cancels_leave_zero_blocks_in_use() -> None:
    rng = random.Random(0)
    engine = make_engine(num_blocks=128, block_size=4, max_num_seqs=16)
    waiting = [
        (str(i), [rng.randrange(VOCAB) for _ in range(rng.randint(1, 40))], rng.randint(1, 16)) for i in range(1000)
    ]
    doomed = {request_id for request_id, *_ in waiting if rng.random() < 0.2}
    found: dict[str, list[int]] = {}
    queue = iter(waiting)
    more = True
    while more or engine.has_work:
        for _ in range(rng.randint(0, 4)):
            job = next(queue, None)
            more = job is not None
            if job is not None:
                engine.add(job[0], job[1], greedy(job[2], n=1))
        for update in engine.step():
            found.setdefault(update.request.request_id, []).extend(update.token_ids)
        if rng.random() < 0.3 and engine.requests:
            victim = rng.choice(list(engine.requests))
            if victim in doomed:
                engine.cancel(victim)
    for request_id, prompt, count in waiting:
        if request_id not in doomed:
            assert found[request_id] == expected(prompt, count)
    assert_empty(engine)


def test_the_youngest_is_preempted_and_the_oldest_served_first() -> None:
    engine = make_engine(num_blocks=10, block_size=4, prefix_caching=False)
    for name in "abc":
        engine.add(name, [ord(name) % VOCAB] * 8, greedy(20))
    order = []
    while engine.has_work:
        order += [u.request.request_id for u in engine.step() if u.finish_reason]
    assert order == ["a", "b", "c"]
    assert engine.stats.preemptions > 0
    assert_empty(engine)


def test_what_can_never_fit_is_refused_with_the_numbers() -> None:
    engine = make_engine(num_blocks=4, block_size=4, max_model_len=100)
    with pytest.raises(ContextLengthError, match=r"101.*100"):
        engine.add("a", [1] * 101, greedy(1))
    with pytest.raises(ContextLengthError, match=r"90.*20.*110.*100.*10"):
        engine.add("a", [1] * 90, greedy(20))
    with pytest.raises(ContextLengthError, match=r"10.*10.*16"):
        engine.add("a", [1] * 10, greedy(10))
    with pytest.raises(RequestError, match="empty"):
        engine.add("a", [], greedy(1))
    with pytest.raises(RequestError, match="outside the vocabulary"):
        engine.add("a", [VOCAB], greedy(1))
    with pytest.raises(RequestError, match="max_num_seqs"):
        engine.add("a", [1], SamplingParams(n=9, max_tokens=1))
    assert_empty(engine)


def test_max_tokens_none_fills_context_or_cache_exactly() -> None:
    engine = make_engine(num_blocks=4, block_size=4, max_model_len=12)
    engine.add("a", [1] * 5, SamplingParams(max_tokens=None, temperature=0))
    assert len(run_all(engine)["a", 0]) == 7
    engine = make_engine(num_blocks=3, block_size=4, max_model_len=100)
    engine.add("a", [1] * 5, SamplingParams(max_tokens=None, temperature=0))
    assert len(run_all(engine)["a", 0]) == 8


def test_the_queue_is_bounded_and_ids_are_unique() -> None:
    engine = make_engine(max_waiting=2)
    engine.add("a", [1], greedy(1))
    with pytest.raises(RequestError, match="already in use"):
        engine.add("a", [1], greedy(1))
    engine.add("b", [1], greedy(1))
    with pytest.raises(OverloadedError):
        engine.add("c", [1], greedy(1))


def test_endings_eos_stop_id_min_tokens_and_foreign_ids() -> None:
    prompt = [3, 1, 4]
    tokens = expected(prompt, 12)
    eos = frozenset({tokens[4]})

    def finish(**kwargs: object) -> tuple[list[int], object, object]:
        engine = make_engine(eos=eos)
        engine.add("r", prompt, greedy(12, **kwargs))
        out: list[int] = []
        while engine.has_work:
            for update in engine.step():
                out += update.token_ids
                last = update
        return out, last.finish_reason, last.stop_reason

    first = tokens.index(tokens[4])
    assert finish() == (tokens[: first + 1], "stop", None)
    assert finish(ignore_eos=True) == (tokens, "length", None)
    assert finish(stop_token_ids=(tokens[2], 10**6)) == (tokens[: tokens.index(tokens[2]) + 1], "stop", tokens[2])
    out, reason, _ = finish(min_tokens=12)
    assert len(out) == 12
    assert reason == "length"
    assert tokens[4] not in out


def test_a_failing_step_ends_its_requests_and_not_the_engine() -> None:
    engine = make_engine()
    engine.add("a", [1, 2, 3], greedy(4))
    fake(engine).fail_next = True
    updates = engine.step()
    assert [(u.finish_reason, u.error) for u in updates] == [("error", "out of luck")]
    engine.add("b", [1, 2, 3], greedy(4))
    assert run_all(engine)["b", 0] == expected([1, 2, 3], 4)
    assert_empty(engine)


def test_logits_that_are_not_finite_fail_their_request_only() -> None:
    engine = make_engine()
    fake(engine).poison = 66
    engine.add("bad", [66, 1], greedy(4))
    engine.add("good", [5, 1], greedy(4))
    updates = engine.step()
    assert {u.request.request_id: u.finish_reason for u in updates} == {"bad": "error", "good": None}
    run_all(engine)
    assert_empty(engine)


def test_prompt_logprobs_score_every_prompt_token_in_any_chunks() -> None:
    for chunk in (0, 1, 3):
        engine = make_engine(prefill_chunk=chunk)
        request = engine.add("r", [5, 6, 7, 8, 9], greedy(2, prompt_logprobs=2))
        run_all(engine)
        assert [s.token_id for s in request.prompt_scores] == [6, 7, 8, 9]
        assert all(len(s.top_ids) == 2 for s in request.prompt_scores)


def test_whole_prompts_are_never_split() -> None:
    engine = make_engine(whole_prompts=True, max_num_batched_tokens=16, max_num_seqs=4)
    engine.add("a", [1] * 10, greedy(3))
    engine.add("b", [2] * 30, greedy(3))
    engine.add("c", [3] * 5, greedy(3))
    found = run_all(engine)
    assert found["b", 0] == expected([2] * 30, 3)
    assert 30 in fake(engine).steps or 31 in fake(engine).steps


def test_cancel_of_one_waiting_and_unknown_requests() -> None:
    engine = make_engine()
    engine.add("a", [1], greedy(3))
    engine.cancel("a")
    engine.cancel("nobody")
    assert engine.step() == []
    assert_empty(engine)


@settings(max_examples=60)
@given(
    rows=st.integers(1, 30),
    jobs=st.lists(st.tuples(prompts, st.integers(1, 8), st.sampled_from([None, "p", "q"])), min_size=1, max_size=6),
    block_size=st.sampled_from([1, 4, 16]),
    chunk=st.integers(0, 9),
    n=st.integers(1, 3),
    shifts=st.booleans(),
)
def test_prefixes_stand_before_the_tokens_in_shared_blocks(
    rows: int, jobs: list[tuple[list[int], int, str | None]], block_size: int, chunk: int, n: int, shifts: bool
) -> None:
    engine = make_engine(num_blocks=200 // block_size + 40, block_size=block_size, prefill_chunk=chunk)
    heads = {"p": list(range(50, 50 + rows)), "q": list(range(10, 10 + rows // 2 + 1))}
    for name, head in heads.items():
        prefix = engine.add_prefix(name, len(head), shifts)
        for i, token in enumerate(head):
            fake(engine).cache[prefix.blocks[i // block_size] * block_size + i % block_size] = token
    fake(engine).leads |= set() if shifts else {len(head) for head in heads.values()}
    pinned = engine.pool.used
    for repeat in range(2):  # the second round finds the first in the cache
        for i, (prompt, count, which) in enumerate(jobs):
            engine.add(f"{repeat}-{i}", prompt, SamplingParams(n=n, seed=3, max_tokens=count), prefix=which)
        requests = list(engine.requests.values())
        found = run_all(engine)
        for request, (prompt, count, which) in zip(requests, jobs):
            for index in range(n):
                context = [*heads.get(which or "", []), *prompt]
                assert found[request.request_id, index] == expected(context, count, request.seed_of(index))
    assert engine.pool.used == pinned
    for name in heads:
        engine.remove_prefix(name)
    assert_empty(engine)


def test_prefixes_are_pinned_named_and_bounded() -> None:
    engine = make_engine(num_blocks=8, block_size=4)
    engine.add_prefix("p", 9)
    with pytest.raises(RequestError, match="loaded already"):
        engine.add_prefix("p", 1)
    with pytest.raises(OverloadedError, match=r"6 KV blocks and 5"):
        engine.add_prefix("q", 24)
    with pytest.raises(RequestError, match="no prefix"):
        engine.add("r", [1], greedy(1), prefix="x")
    with pytest.raises(ContextLengthError, match="20"):
        engine.add("r", [1] * 20, greedy(2))
    fake(engine).leads.add(9)
    engine.add("r", [1] * 18, greedy(2), prefix="p")
    engine.remove_prefix("p")
    assert run_all(engine)["r", 0]
    assert_empty(engine)


class Alternating:
    """Even and odd tokens in turn, and an error after ``most`` of them."""

    def __init__(self, most: int, taken: tuple[int, ...] = ()) -> None:
        self.most, self.taken = most, list(taken)

    def mask(self) -> U32:
        return bit_mask(range(len(self.taken) % 2, VOCAB, 2), VOCAB)

    def accept(self, token: int) -> None:
        assert token % 2 == len(self.taken) % 2
        self.taken.append(token)
        if len(self.taken) > self.most:
            raise ExecutionError("nothing can follow")

    def copy(self) -> Alternating:
        return Alternating(self.most, tuple(self.taken))


@pytest.mark.parametrize("blocks", [64, 6])
def test_constraints_are_asked_before_each_token_and_forked_with_their_answers(blocks: int) -> None:
    engine = make_engine(num_blocks=blocks, block_size=4)
    engine.add("r", [1, 2, 3], SamplingParams(n=3, seed=5, max_tokens=12), constraint=Alternating(100))
    engine.add("plain", [1, 2, 3], greedy(6))
    found = run_all(engine)
    for index in range(3):
        assert [t % 2 for t in found["r", index]] == [0, 1] * 6
    assert found["r", 0] != found["r", 1]
    assert found["plain", 0] == expected([1, 2, 3], 6)
    assert_empty(engine)


def test_a_constraint_that_fails_ends_its_answer_with_the_reason() -> None:
    engine = make_engine()
    engine.add("r", [1], greedy(12), constraint=Alternating(3))
    updates = list(drain(engine))
    assert [u.finish_reason for u in updates] == [None, None, None, "error"]
    assert updates[-1].error == "nothing can follow"
    assert_empty(engine)


def test_timing_record() -> None:
    engine = make_engine()
    request = engine.add("a", [1, 2], greedy(5))
    run_all(engine)
    metrics = request.metrics
    assert metrics.queued is not None and metrics.queued >= 0
    assert metrics.ttft is not None and metrics.ttft >= metrics.queued
    assert len(metrics.inter_token_latencies) == 4
    assert metrics.finished_time is not None


@pytest.mark.parametrize("blocks", [64, 6])
def test_bad_words_are_never_completed(blocks: int) -> None:
    engine = make_engine(num_blocks=blocks, block_size=4)
    prompt = [1, 2, 3]
    plain = expected(prompt, 6)
    words = (tuple(plain[2:4]), (plain[0],), (96, 95, 94))
    engine.add("bad", prompt, greedy(12), bad_words=words)
    engine.add("plain", prompt, greedy(6))
    found = run_all(engine)
    assert found["plain", 0] == plain
    said = found["bad", 0]
    assert plain[0] not in said
    assert all(tuple(said[i : i + 2]) != words[0] for i in range(len(said)))
    engine.add("pair", prompt, greedy(6), bad_words=(tuple(plain[2:4]),))
    pair = run_all(engine)["pair", 0]
    assert pair[:3] == plain[:3] and pair[3] != plain[3]
    assert_empty(engine)
