"""Beam search over the executor that notices every wrong slot: the same answers as a plain search, whatever happens."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.engine.engine import Engine, drain
from penstock.engine.sequence import Request, SequenceUpdate, bit_mask
from penstock.errors import ContextLengthError, ExecutionError, RequestError
from penstock.types import U32, SamplingParams
from tests.engine.fake import VOCAB, expected, fake, greedy, logprobs, make_engine, run_all
from tests.engine.test_engine import assert_empty, prompts

Answers = list[tuple[list[int], float]]
Bad = tuple[tuple[int, ...], ...]


def beams(width: int, max_tokens: int, **more: object) -> SamplingParams:
    given = {"n": width, "max_tokens": max_tokens, **more}
    return SamplingParams(use_beam_search=True, **given)  # type: ignore[arg-type]


def reference(prompt: list[int], params: SamplingParams, ends: frozenset[int] = frozenset(), bad: Bad = ()) -> Answers:
    """Beam search over the whole vocabulary, one list of outputs and sums, without a cache: tokens and scores."""
    width, limit = params.best_of or params.n, params.max_tokens or 0
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    done: Answers = []
    for length in range(1, limit + 1):
        every = []
        for rank, (total, out) in enumerate(live):
            for token, logprob in enumerate(logprobs((*prompt, *out)).tolist()):
                said = (*out, token)
                barred = any(said[len(said) - len(word) :] == word for word in bad if len(word) <= len(said))
                if (length > params.min_tokens or token not in ends) and not barred:
                    every.append((-(total + logprob), rank, token))
        every.sort()
        best = [(-total, [*live[rank][1], token]) for total, rank, token in every]
        ended = [length == limit or out[-1] in ends for _, out in best]
        done += [
            (out, total / length**params.length_penalty)
            for (total, out), end in list(zip(best, ended, strict=True))[:width]
            if end
        ]
        done = sorted(done, key=lambda a: -a[1])[:width]
        live = list(itertools.islice((b for b, end in zip(best, ended, strict=True) if not end), width))
        if not live or (len(done) == width and params.early_stopping is True):
            break
        reach = limit if params.early_stopping == "never" and params.length_penalty > 0 else length
        if len(done) == width and live[0][0] / reach**params.length_penalty <= done[-1][1]:
            break
    return done[: params.n]


def answers_of(engine: Engine) -> dict[str, list[SequenceUpdate]]:
    """Drain; every update by request id."""
    found: dict[str, list[SequenceUpdate]] = {}
    for update in drain(engine):
        found.setdefault(update.request.request_id, []).append(update)
    return found


def scored(updates: list[SequenceUpdate], params: SamplingParams) -> Answers:
    assert [u.index for u in updates] == list(range(len(updates)))
    assert all(u.finish_reason in ("stop", "length") for u in updates)
    return [
        (list(u.token_ids), sum(s.logprob for s in u.scores) / len(u.scores) ** params.length_penalty) for u in updates
    ]


def same(found: Answers, wanted: Answers) -> None:
    assert [tokens for tokens, _ in found] == [tokens for tokens, _ in wanted]
    assert [score for _, score in found] == pytest.approx([score for _, score in wanted], rel=1e-6)


searches = st.builds(
    beams,
    width=st.integers(1, 4),
    max_tokens=st.integers(1, 9),
    best_of=st.sampled_from([None, 4, 5]),
    length_penalty=st.sampled_from([1.0, 0.0, 0.6, 2.0, -1.0]),
    early_stopping=st.sampled_from([False, True, "never"]),
    min_tokens=st.integers(0, 1),
)
ends = st.frozensets(st.integers(0, VOCAB - 1), max_size=12)


@settings(max_examples=120, deadline=None)
@given(prompt=prompts, params=searches, eos=ends, block_size=st.sampled_from([1, 4, 16]), chunk=st.integers(0, 7))
def test_the_answers_are_those_of_a_plain_search(
    prompt: list[int], params: SamplingParams, eos: frozenset[int], block_size: int, chunk: int
) -> None:
    engine = make_engine(num_blocks=400 // block_size, block_size=block_size, eos=eos, prefill_chunk=chunk)
    engine.add("r", prompt, params)
    same(scored(answers_of(engine)["r"], params), reference(prompt, params, eos))
    assert_empty(engine)


@settings(max_examples=80, deadline=None)
@given(
    jobs=st.lists(st.tuples(prompts, searches | st.integers(1, 12)), min_size=2, max_size=7),
    block_size=st.sampled_from([1, 4, 16]),
    spare=st.integers(0, 20),
    budget=st.integers(3, 40),
    chunk=st.integers(0, 9),
    caching=st.booleans(),
    eos=ends,
)
def test_company_chunks_budgets_and_preemption_change_no_answer(
    jobs: list[tuple[list[int], SamplingParams | int]],
    block_size: int,
    spare: int,
    budget: int,
    chunk: int,
    caching: bool,
    eos: frozenset[int],
) -> None:
    def blocks(prompt: list[int], what: SamplingParams | int) -> int:
        width, count = (what.best_of or what.n, what.max_tokens or 0) if not isinstance(what, int) else (1, what)
        shared, rest = divmod(len(prompt), block_size)
        return shared + width * -(-(rest + count) // block_size)

    engine = make_engine(
        num_blocks=max(blocks(*job) for job in jobs) + spare,
        block_size=block_size,
        max_num_batched_tokens=budget,
        max_logits_rows=max(3, budget // 2),
        prefill_chunk=chunk,
        prefix_caching=caching,
        eos=eos,
    )
    for i, (prompt, what) in enumerate(jobs):
        engine.add(str(i), prompt, greedy(what, ignore_eos=True) if isinstance(what, int) else what)
    found = answers_of(engine)
    for i, (prompt, what) in enumerate(jobs):
        if isinstance(what, int):
            assert [t for u in found[str(i)] for t in u.token_ids] == expected(prompt, what)
        else:
            same(scored(found[str(i)], what), reference(prompt, what, eos))
    assert_empty(engine)


def test_beams_are_preempted_together_and_recomputed() -> None:
    engine = make_engine(num_blocks=18, block_size=4, max_num_seqs=12, prefix_caching=False)
    jobs = {name: [ord(name) % VOCAB] * 9 for name in "abc"}
    params = beams(4, 16)
    for name, prompt in jobs.items():
        engine.add(name, prompt, params)
    found = answers_of(engine)
    assert engine.stats.preemptions > 0
    for name, prompt in jobs.items():
        same(scored(found[name], params), reference(prompt, params))
    assert_empty(engine)


def test_beams_hold_the_prompt_once() -> None:
    engine = make_engine(num_blocks=64, block_size=4)
    engine.add("r", list(range(16)), beams(4, 6))
    engine.step()
    assert engine.pool.used == 4
    engine.step()
    assert 4 < engine.pool.used <= 4 + 4
    assert fake(engine).steps == [16, 4]


@settings(max_examples=40, deadline=None)
@given(prompt=prompts, count=st.integers(1, 12), early=st.sampled_from([False, True, "never"]), eos=ends)
def test_one_beam_is_greedy(prompt: list[int], count: int, early: bool | str, eos: frozenset[int]) -> None:
    engine = make_engine(eos=eos)
    engine.add("beam", prompt, beams(1, count, early_stopping=early))
    engine.add("greedy", prompt, greedy(count))
    found = run_all(engine)
    assert found["beam", 0] == found["greedy", 0]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_as_many_beams_as_answers_exist_find_the_best_of_all(length: int) -> None:
    allowed, prompt = (3, 50, 96), [5, 6, 7]
    width = len(allowed) ** length
    engine = make_engine(num_blocks=200, max_num_seqs=32)
    engine.add("r", prompt, beams(width, length, allowed_token_ids=allowed))
    every = []
    for out in itertools.product(allowed, repeat=length):
        every.append((sum(float(logprobs((*prompt, *out[:i]))[t]) for i, t in enumerate(out)) / length, list(out)))
    found = scored(answers_of(engine)["r"], beams(1, 1))
    assert found[0][0] == max(every)[1]
    assert [s for _, s in found] == pytest.approx(sorted((s for s, _ in every), reverse=True), rel=1e-5)
    assert {tuple(tokens) for tokens, _ in found} == set(itertools.product(allowed, repeat=length))


def test_more_beams_than_answers_give_what_there_is() -> None:
    engine = make_engine(eos=frozenset({9}))
    request = engine.add("r", [1, 2], beams(5, 2, allowed_token_ids=(4, 9)))
    found = [tuple(u.token_ids) for u in answers_of(engine)["r"]]
    assert sorted(found) == [(4, 4), (4, 9), (9,)]
    assert request.num_answers == 3
    assert_empty(engine)


def test_bias_and_repetition_penalty_act_on_log_probabilities() -> None:
    prompt = [4, 4, 8]
    best = next(iter(expected(prompt, 1)))
    engine = make_engine()
    engine.add("bias", prompt, beams(1, 3, logit_bias={60: 50.0}))
    engine.add("again", [*prompt, best], beams(1, 6, repetition_penalty=100.0, best_of=3))
    found = run_all(engine)
    assert found["bias", 0] == [60, 60, 60]
    assert len({*prompt, best, *found["again", 0]}) == 3 + 6


@pytest.mark.parametrize("width", [1, 2, 4])
def test_bad_words_are_in_no_answer(width: int) -> None:
    prompt, params = [5, 6, 7], beams(width, 6)
    plain = [answer for answer, _ in reference(prompt, params)]
    bad: Bad = ((plain[0][0],), tuple(plain[-1][1:3]), (plain[0][1], plain[0][2], plain[0][3]))
    wanted = reference(prompt, params, bad=bad)
    assert [answer for answer, _ in wanted] != plain
    engine = make_engine(num_blocks=24)
    engine.add("r", prompt, params, bad_words=bad)
    engine.add("company", [9, 8], beams(2, 5))
    found = answers_of(engine)["r"]
    assert [list(update.token_ids) for update in found] == [answer for answer, _ in wanted]
    assert_empty(engine)


class Alternating:
    """Even and odd tokens in turn; nothing but 8 after three tokens; an error after ``most``."""

    def __init__(self, most: int, taken: tuple[int, ...] = ()) -> None:
        self.most, self.taken = most, list(taken)

    def mask(self) -> U32:
        return bit_mask([8] if len(self.taken) == 3 else range(len(self.taken) % 2, VOCAB, 2), VOCAB)

    def accept(self, token: int) -> None:
        assert self.mask()[token // 32] >> np.uint32(token % 32) & 1
        self.taken.append(token)
        if len(self.taken) > self.most:
            raise ExecutionError("nothing can follow")

    def copy(self) -> Alternating:
        return Alternating(self.most, tuple(self.taken))


@pytest.mark.parametrize("blocks", [96, 20])
def test_constraints_go_with_their_beams(blocks: int) -> None:
    engine = make_engine(num_blocks=blocks, block_size=4, max_num_seqs=16, prefix_caching=False)
    for name in "abcd":
        engine.add(name, [1, 2, ord(name) - 90], beams(4, 16), constraint=Alternating(100))
    found = answers_of(engine)
    assert (engine.stats.preemptions > 0) == (blocks == 20)
    for name in "abcd":
        assert len({u.token_ids for u in found[name]}) == 4
        for update in found[name]:
            assert [t % 2 for t in update.token_ids] == [0, 1, 0, 0] + [0, 1] * 6
            assert update.token_ids[3] == 8
    assert_empty(engine)


def test_a_constraint_that_fails_ends_the_request_with_the_reason() -> None:
    engine = make_engine()
    engine.add("r", [1], beams(2, 12), constraint=Alternating(3))
    assert [(u.index, u.error) for u in answers_of(engine)["r"]] == [(i, "nothing can follow") for i in range(2)]
    assert_empty(engine)


def test_endings_and_their_reasons() -> None:
    prompt = [3, 1, 4]
    best = reference(prompt, beams(3, 4))[0][0]
    eos, stop = best[1], best[2]

    def run(**more: object) -> list[tuple[int, str | None, int | str | None]]:
        engine = make_engine(eos=frozenset({eos}))
        params = beams(3, 4, **more)
        engine.add("r", prompt, params)
        found = answers_of(engine)["r"]
        last = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else {eos})
        same(scored(found, params), reference(prompt, params, frozenset(last)))
        return [(u.token_ids[-1], u.finish_reason, u.stop_reason) for u in found]

    assert {r[1:] for r in run() if r[0] == eos} == {("stop", None)}
    assert {r[1:] for r in run(stop_token_ids=(stop,), ignore_eos=True) if r[0] == stop} == {("stop", stop)}
    assert all(r[1] == "length" for r in run(ignore_eos=True))
    assert all(r[1] == "length" for r in run(min_tokens=4) if r[0] != eos)


def test_scores_come_with_the_best_tokens_of_each_place() -> None:
    engine = make_engine()
    engine.add("r", [7], beams(2, 3, logprobs=3))
    engine.add("biased", [7], beams(2, 3, logprobs=3, logit_bias={11: 4.0}))
    found_all = answers_of(engine)
    for update in found_all["r"] + found_all["biased"]:
        context: tuple[int, ...] = (7,)
        for token, score in zip(update.token_ids, update.scores, strict=True):
            found = logprobs(context)
            assert score.token_id == token
            assert score.logprob == pytest.approx(float(found[token]))
            assert abs(score.rank - 1 - np.count_nonzero(found > found[token])) <= np.count_nonzero(
                found == found[token]
            )
            assert score.top_ids == tuple(np.argsort(-found, kind="stable")[:3].tolist())
            context = (*context, token)


def test_a_failing_step_and_logits_that_are_not_finite_end_all_answers() -> None:
    engine = make_engine(prefill_chunk=2)
    fake(engine).poison = 66
    engine.add("bad", [66, 1], beams(3, 4))
    engine.add("good", [5, 1], beams(3, 4))
    found = answers_of(engine)
    assert [(u.index, u.finish_reason) for u in found["bad"]] == [(0, "error"), (1, "error"), (2, "error")]
    same(scored(found["good"], beams(3, 4)), reference([5, 1], beams(3, 4)))
    for steps in (0, 1, 3):  # within the prompt, at its end, behind it
        engine.add("r", [1, 2, 3, 4], beams(3, 4, best_of=4))
        for _ in range(steps):
            engine.step()
        fake(engine).fail_next = True
        assert [(u.index, u.error) for u in engine.step()] == [(i, "out of luck") for i in range(3)]
        assert_empty(engine)


def test_a_prompt_that_fails_in_a_chunk_ends_the_answers_that_were_to_come() -> None:
    engine = make_engine(prefill_chunk=2)
    engine.add("r", [1, 2, 3], SamplingParams(n=3, max_tokens=2))
    fake(engine).fail_next = True
    assert [u.index for u in engine.step()] == [0, 1, 2]
    assert_empty(engine)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_random_cancels_leave_nothing_behind(seed: int) -> None:
    rng = random.Random(seed)
    engine = make_engine(num_blocks=rng.randint(24, 64), block_size=4)
    live: list[Request] = []
    for i in range(50):
        if rng.random() < 0.5:
            prompt = [rng.randrange(VOCAB) for _ in range(rng.randint(1, 20))]
            params = beams(rng.randint(1, 4), rng.randint(1, 9)) if rng.random() < 0.7 else greedy(9)
            live.append(engine.add(str(i), prompt, params))
        if live and rng.random() < 0.3:
            engine.cancel(rng.choice(live).request_id)
        engine.step()
    for request in live:
        engine.cancel(request.request_id)
    assert_empty(engine)


@pytest.mark.parametrize("shifts", [False, True])
@pytest.mark.parametrize("blocks", [60, 23])
def test_beams_behind_a_prefix(blocks: int, shifts: bool) -> None:
    engine = make_engine(num_blocks=blocks, block_size=4, max_num_seqs=12, prefix_caching=False)
    head = list(range(40, 46))
    prefix = engine.add_prefix("p", len(head), shifts)
    for i, token in enumerate(head):
        fake(engine).cache[prefix.blocks[i // 4] * 4 + i % 4] = token
    fake(engine).leads |= set() if shifts else {len(head)}
    params = beams(4, 12)
    for i in range(3):
        engine.add(str(i), [i, 8, 9], params, prefix="p")
    found = answers_of(engine)
    assert (engine.stats.preemptions > 0) == (blocks == 23)
    for i in range(3):
        same(scored(found[str(i)], params), reference([*head, i, 8, 9], params))
    engine.remove_prefix("p")
    assert_empty(engine)


def test_what_beams_can_never_hold_is_refused_with_the_numbers() -> None:
    engine = make_engine(num_blocks=10, block_size=4)
    engine.add("fits", list(range(8)), beams(4, 9))
    with pytest.raises(ContextLengthError, match=r"8.*10.*16"):
        engine.add("r", list(range(8)), beams(4, 10))
    with pytest.raises(ContextLengthError):
        engine.add("r", list(range(39)), beams(4, 2))
    with pytest.raises(RequestError, match="max_num_seqs"):
        engine.add("r", [1], beams(2, 2, best_of=9))
    assert len(answers_of(engine)["fits"]) == 4
    assert_empty(engine)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.7), ("top_p", 0.9), ("top_k", 4), ("min_p", 0.1), ("typical_p", 0.5),
        ("presence_penalty", 1.0),
        ("frequency_penalty", 1.0), ("early_stopping", "often"), ("early_stopping", 1), ("length_penalty", 1e9),
        ("length_penalty", "long"), ("use_beam_search", 1),
    ],
)  # fmt: skip
def test_what_has_no_meaning_with_beams_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(RequestError, match=name) as error:
        SamplingParams(**{"use_beam_search": True, name: value})  # type: ignore[arg-type]
    assert error.value.param == name


@pytest.mark.parametrize(("name", "value"), [("length_penalty", 2.0), ("early_stopping", True)])
def test_what_belongs_to_beams_is_refused_without_them(name: str, value: object) -> None:
    with pytest.raises(RequestError, match="use_beam_search"):
        SamplingParams(**{name: value})  # type: ignore[arg-type]
