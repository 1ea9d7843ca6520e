"""The plain executor as an executor: loading, limits, dynamic mode, forks of the cache, sampling, memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from penstock.errors import CheckpointError, ConfigError, ExecutionError
from penstock.executors.base import Traced, resolve
from penstock.executors.torch.executor import TorchExecutor
from penstock.models.decoder import build
from penstock.models.passes.fuse import fuse
from penstock.models.program import Program, WeightSpec
from penstock.quant.scheme import WeightData
from tests.harness import Runner, limits, sampling
from tests.models.some import ARCHITECTURES

IDS = [3, 17, 4, 4, 29, 0, 11, 8, 9, 21]


def weights(program: Program, seed: int = 0) -> Iterator[tuple[WeightSpec, WeightData]]:
    rng = np.random.default_rng(seed)
    for spec in program.weights.values():
        array = rng.standard_normal(spec.shape).astype(np.float32) * 0.3
        yield spec, WeightData("f32", spec.shape, {"weight": array})


def loaded(name: str = "llama", **changes: Any) -> TorchExecutor:
    program = build(ARCHITECTURES[name])
    executor = TorchExecutor(program, replace(limits(blocks=12), **changes), threads=1)
    executor.load(weights(program))
    return executor


def runner(name: str = "llama", **changes: Any) -> Runner:
    return Runner(loaded(name, **changes), ARCHITECTURES[name].position_channels)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_any_architecture_runs_and_chunks_do_not_matter(name: str) -> None:
    r = runner(name)
    whole = r.prefill(IDS)
    assert whole.shape == (10, 30)
    assert np.isfinite(whole).all()
    np.testing.assert_allclose(r.prefill(IDS, [3]), whole, atol=2e-5)
    assert np.abs(r.prefill(IDS[::-1]) - whole).max() > 1e-2


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_fused_program_means_the_same(name: str) -> None:
    program = build(ARCHITECTURES[name])
    plain, fused = (TorchExecutor(p, limits(blocks=12)) for p in (program, fuse(program)))
    assert len(fused.program.ops) < len(plain.program.ops)
    for executor in (plain, fused):
        executor.load(weights(program))
    channels = ARCHITECTURES[name].position_channels
    np.testing.assert_allclose(Runner(fused, channels).prefill(IDS), Runner(plain, channels).prefill(IDS), atol=2e-5)


def test_trace_shows_every_op_and_gives_the_same_bits() -> None:
    r = runner()
    seq = r.add(IDS)
    seen: list[tuple[int, str, dict[str, tuple[int, ...]]]] = []

    def hook(traced: Traced) -> None:
        assert traced.seconds >= 0
        seen.append((traced.index, traced.op.kind, {k: v.shape for k, v in traced.outputs.items()}))

    batch = r.batch([(seq, 10)], return_logits=True, return_hidden=True)
    traced, run = r.executor.trace(batch, hook), r.executor.run(batch)
    assert [s[:2] for s in seen] == [(i, op.kind) for i, op in enumerate(r.executor.program.ops)]
    assert seen[2][2] == {"layers.0.attn.q": (10, 16), "layers.0.attn.k": (10, 8), "layers.0.attn.v": (10, 8)}
    np.testing.assert_array_equal(traced.logits, run.logits)
    assert run.hidden is not None
    assert run.hidden.shape == (10, 16)


def test_a_fork_of_the_cache_goes_its_own_way() -> None:
    """A block copied before the step belongs to the copy alone."""
    r = runner()
    parent = r.add(IDS)
    r.step([(parent, 10)])
    child = r.add([*IDS, 5])
    child.blocks, child.computed = [r.free.pop()], 10
    copies = np.array([[parent.blocks[0], child.blocks[0]]], np.int32)
    (forked,), _ = r.step([(child, 1)], block_copies=copies)
    np.testing.assert_allclose(forked, r.prefill([*IDS, 5])[-1:], atol=2e-5)
    parent.ids.append(7)
    (kept,), _ = r.step([(parent, 1)])
    np.testing.assert_allclose(kept, r.prefill([*IDS, 7])[-1:], atol=2e-5)


def test_only_the_rows_asked_for_have_logits_and_entries_sample_them() -> None:
    r = runner()
    whole = r.prefill(IDS)
    a, b = r.add(IDS), r.add(IDS[:4])
    entries = sampling([1, 0, 1], 30, temperature=[0, 0, 1], seed=3, num_logprobs=[2, -1, 0])
    parts, out = r.step([(a, 10), (b, 4)], every_row=False, sampling=entries)
    np.testing.assert_allclose(np.concatenate(parts), whole[[9, 3]], atol=2e-5)
    assert out.token_ids[:2].tolist() == [int(whole[3].argmax()), int(whole[9].argmax())]
    assert out.top_ids is not None
    assert out.top_ids.shape == (3, 2)


def test_bidirectional_prompts_see_what_comes() -> None:
    r = runner("two ropes")
    causal, both = r.prefill(IDS), r.prefill(IDS, bidirectional=8)
    assert np.abs(causal[0] - both[0]).max() > 1e-3
    changed = r.prefill([*IDS[:7], 1, *IDS[8:]], bidirectional=8)
    assert np.abs(changed[0] - both[0]).max() > 1e-4
    changed = r.prefill([*IDS[:9], 1], bidirectional=8)
    np.testing.assert_allclose(changed[:9], both[:9], atol=2e-5)


def test_positions_are_not_cache_rows() -> None:
    r = runner("two ropes")
    shifted = np.stack([np.arange(10) + 5, np.arange(10)])
    moved = np.stack([np.arange(10), np.arange(10) * 2])
    np.testing.assert_allclose(r.prefill(IDS, positions=shifted), r.prefill(IDS), atol=1e-4)  # only distances count
    assert np.abs(r.prefill(IDS, positions=moved) - r.prefill(IDS)).max() > 1e-3


def test_every_weight_must_come_in_its_shape() -> None:
    program = build(ARCHITECTURES["llama"])
    executor = TorchExecutor(program, limits(blocks=2))
    stream = list(weights(program))
    with pytest.raises(CheckpointError, match=r"2 weights were not given: embed\.weight, layers\.0"):
        executor.load(iter(stream[2:]))
    spec, data = stream[0]
    with pytest.raises(CheckpointError, match=r"weight 'embed\.weight': expected \[30, 16\], found \[3, 16\]"):
        executor.load([(spec, data.rows(slice(3)))])


def test_other_arithmetic_is_refused() -> None:
    with pytest.raises(ConfigError, match="dtype=float32"):
        TorchExecutor(build(ARCHITECTURES["llama"]), limits(blocks=2), compute="bf16")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"max_tokens": 9}, "tokens 10, at most 9"),
        ({"max_seqs": 0}, "sequences 1, at most 0"),
        ({"max_logits_rows": 9}, "rows of logits 10, at most 9"),
        ({"max_context": 9}, "cache rows 10, at most 9"),
    ],
)
def test_a_step_beyond_the_limits_is_refused_before_it_starts(changes: dict[str, Any], complaint: str) -> None:
    r = runner(**changes)
    with pytest.raises(ExecutionError, match=complaint):
        r.prefill(IDS)


def test_token_ids_outside_the_vocabulary_are_refused() -> None:
    r = runner()
    for bad in (30, -1):
        with pytest.raises(ExecutionError, match="outside the vocabulary"):
            r.prefill([1, bad])
    assert np.isfinite(r.prefill(IDS)).all()


def test_memory_and_info() -> None:
    r = runner(kv_dtype="f16")
    executor = r.executor
    block = 2 * 2 * (2 * 4) * 16 * 2  # layers, keys and values, width, rows, bytes
    assert executor.memory.kv_reserved == 12 * block
    assert executor.memory.kv_used == 0
    seq = r.add([1] * 17)
    r.step([(seq, 17)])
    assert executor.memory.kv_used == 2 * block
    assert executor.memory.weights == 4 * sum(int(np.prod(w.shape)) for w in executor.program.weights.values())
    assert (executor.info.name, executor.info.compute) == ("torch", "f32")


def test_close_frees_and_may_be_repeated() -> None:
    executor = loaded()
    executor.close()
    executor.close()
    assert executor.memory.weights == 0
    with pytest.raises(ExecutionError, match="closed"):
        Runner(executor).prefill(IDS)


def test_it_is_what_resolve_gives() -> None:
    assert resolve("torch") is TorchExecutor
