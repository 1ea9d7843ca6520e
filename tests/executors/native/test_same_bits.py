"""A request's bits do not depend on mode, threads, chunks, or company."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import _native
from penstock.executors.base import Traced
from penstock.executors.native.executor import NativeExecutor
from penstock.models.decoder import build
from tests.executors.native.some import DTYPES, IDS, NAMES, executor, runner, weights
from tests.harness import F32, Runner, Seq, limits
from tests.models.some import ARCHITECTURES

ISAS = _native.possible_isas()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fmt", DTYPES)
def test_static_and_dynamic_mode(name: str, fmt: str) -> None:
    static, dynamic = runner(name, fmt), runner(name, fmt, mode="dynamic")
    np.testing.assert_array_equal(static.prefill(IDS, [7, 1, 3]), dynamic.prefill(IDS, [7, 1, 3]))


@pytest.mark.parametrize("name", NAMES)
def test_trace_gives_what_run_gives_and_shows_every_value(name: str) -> None:
    run, traced = runner(name), runner(name)
    seen: list[Traced] = []
    copies: dict[str, F32] = {}

    def hook(t: Traced) -> None:
        seen.append(t)
        copies.update({n: v.copy() for n, v in t.outputs.items()})

    seq = traced.add(IDS)
    out = traced.executor.trace(traced.batch([(seq, len(IDS))], return_logits=True), hook)
    assert out.logits is not None
    np.testing.assert_array_equal(run.prefill(IDS), out.logits)
    program = traced.executor.program
    assert [t.index for t in seen] == list(range(len(program.ops)))
    assert [t.op for t in seen] == list(program.ops)
    assert set(copies) == {n for n, v in program.values.items() if v.dtype == "f32"}
    assert all(v.shape == (len(IDS), program.values[n].width) for n, v in copies.items())
    np.testing.assert_array_equal(copies[program.outputs["logits"]], out.logits)
    assert all(t.seconds >= 0 for t in seen)


@pytest.mark.parametrize(("isa", "fmt", "kv"), list(product(ISAS, ("f32", "bf16"), ("f32", "f16", "bf16"))))
def test_threads(isa: str, fmt: str, kv: str) -> None:
    runners = [runner("qk norm", fmt, threads=t, isa=isa, kv_dtype=kv) for t in (1, 2, 3)]
    first, *others = [r.prefill(IDS, [9, 1]) for r in runners]
    for other in others:
        np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize("name", NAMES)
def test_chunks(name: str) -> None:
    one = runner(name, "bf16", threads=2)
    whole = one.prefill(IDS)
    for chunks in ([1], [3, 2], [16, 4]):
        np.testing.assert_array_equal(one.prefill(IDS, chunks), whole)


def together(run: Runner, prompts: list[list[int]], chunks: list[int]) -> list[F32]:
    """All prompts in the same steps, each in chunks of its own size."""
    seqs: list[Seq] = [run.add(p) for p in prompts]
    logits: list[list[F32]] = [[] for _ in prompts]
    while work := [
        (i, s, min(c, len(s.ids) - s.computed)) for i, (s, c) in enumerate(zip(seqs, chunks)) if s.computed < len(s.ids)
    ]:
        parts, _ = run.step([(s, n) for _, s, n in work])
        for (i, _, _), part in zip(work, parts):
            logits[i].append(part)
    for seq in seqs:
        run.drop(seq)
    return [np.concatenate(parts) for parts in logits]


PROMPTS = st.lists(
    st.tuples(st.lists(st.integers(0, 29), min_size=1, max_size=40), st.integers(1, 40)), min_size=1, max_size=6
)


@pytest.mark.parametrize(("isa", "fmt", "threads"), [(ISAS[-1], "bf16", 2), (ISAS[-1], "f32", 1), (ISAS[0], "bf16", 1)])
@settings(max_examples=25)
@given(PROMPTS)
def test_company(isa: str, fmt: str, threads: int, prompts: list[tuple[list[int], int]]) -> None:
    run = runner("biases", fmt, isa=isa, threads=threads)
    alone = [run.prefill(ids) for ids, _ in prompts]
    for mine, ours in zip(alone, together(run, [p for p, _ in prompts], [c for _, c in prompts])):
        np.testing.assert_array_equal(mine, ours)
    run.executor.close()


def test_hidden_rows_are_what_the_head_reads() -> None:
    run = runner()
    seq = run.add(IDS)
    out = run.executor.run(run.batch([(seq, len(IDS))], return_hidden=True))
    assert out.hidden is not None
    assert out.logits is None
    traced: dict[str, F32] = {}
    other = executor()
    again = Runner(other)
    batch = again.batch([(again.add(IDS), len(IDS))])
    other.trace(batch, lambda t: traced.update({n: v.copy() for n, v in t.outputs.items()}))
    np.testing.assert_array_equal(out.hidden, traced[other.program.outputs["hidden"]])


@pytest.mark.parametrize(("isa", "kv"), list(product(ISAS, ("f32", "f16", "bf16", "i8"))))
def test_what_a_broken_request_left_in_the_cache_harms_nobody(isa: str, kv: str) -> None:
    """Token 29 is embedded as NaN: its rows in the cache are NaN until another sequence writes over some of them."""
    program = build(ARCHITECTURES["window"])
    broken = NativeExecutor(program, limits(blocks=3, kv_dtype=kv), isa=isa, threads=1)
    stream = list(weights(program))
    stream[0][1].arrays["weight"][29] = np.nan
    broken.load(stream)
    run = Runner(broken)
    ids = [i % 29 for i in IDS]
    want = run.prefill(ids, [7])
    poisoned = run.prefill([29] * 48)
    assert np.isnan(poisoned).all()
    np.testing.assert_array_equal(run.prefill(ids, [7]), want)
    sane, sick = run.add(ids[:9]), run.add([29] * 9)
    (mine, _), _ = run.step([(sane, 9), (sick, 9)])
    np.testing.assert_array_equal(mine, want[:9])
    assert np.isfinite(want).all()
