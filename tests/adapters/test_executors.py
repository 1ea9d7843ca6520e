"""Adapters in the executors: native against torch, and bits that do not depend on company."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock.errors import ExecutionError
from penstock.executors.base import Executor, Traced
from penstock.executors.torch.executor import TorchExecutor
from penstock.models.decoder import build
from penstock.models.passes.adapters import linear_shapes
from tests.adapters.some import factors
from tests.executors.native import some as native
from tests.harness import Runner, limits
from tests.models.some import ARCHITECTURES

IDS = native.IDS
FIRST, SECOND = 1, 3  # slots
SUBSET = ("layers.0.attn.q.weight", "layers.1.mlp.down.weight", "layers.1.attn.k.weight")


def torch_executor(name: str) -> TorchExecutor:
    program = build(ARCHITECTURES[name])
    made = TorchExecutor(program, limits(blocks=24))
    made.load(native.weights(program))
    return made


def native_executor(name: str, **options: Any) -> Executor:
    return native.executor(name, **options)


def subset(executor: Executor) -> list[str]:
    return [name for name in SUBSET if name in linear_shapes(executor.program)]


def with_two(executor: Executor) -> Executor:
    """Two adapters of different ranks: one on every linear, the head's too, one on a few."""
    executor.load_adapter(FIRST, factors(executor.program, rank=4, seed=1))
    executor.load_adapter(SECOND, factors(executor.program, subset(executor), rank=19, seed=2))
    return executor


def mixed(executor: Executor, name: str, slots: list[int], **more: Any) -> list[NDArray[np.float32]]:
    """Logits of one prompt under each of ``slots``, in one batch of chunks of different lengths."""
    run = Runner(executor, ARCHITECTURES[name].position_channels)
    seqs = [run.add(IDS) for _ in slots]
    found: list[list[NDArray[np.float32]]] = [[] for _ in slots]
    while any(seq.computed < len(IDS) for seq in seqs):
        work = [(i, s, min(3 + i, len(IDS) - s.computed)) for i, s in enumerate(seqs) if s.computed < len(IDS)]
        adapters = np.array([slots[i] for i, _, _ in work], np.int32)
        parts, _ = run.step([(s, n) for _, s, n in work], adapters=adapters, **more)
        for (i, _, _), part in zip(work, parts, strict=True):
            found[i].append(part)
    return [np.concatenate(parts) for parts in found]


@pytest.mark.parametrize("name", native.NAMES)
def test_native_is_torch(name: str) -> None:
    slots = [0, FIRST, SECOND, FIRST]
    found = mixed(with_two(native_executor(name)), name, slots)
    expected = mixed(with_two(torch_executor(name)), name, slots)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-4 * max(1.0, float(b.std())))
    assert not np.allclose(found[0], found[1], atol=1e-2)


@pytest.mark.parametrize("name", native.NAMES)
@pytest.mark.parametrize("threads", [1, 3])
def test_mixed_is_alone_bit_for_bit(name: str, threads: int) -> None:
    plain = mixed(native_executor(name), name, [0])[0]
    executor = with_two(native_executor(name, threads=threads))
    together = mixed(executor, name, [SECOND, 0, FIRST, 0, SECOND, FIRST])
    for slot, logits in zip([SECOND, 0, FIRST, 0, SECOND, FIRST], together, strict=True):
        np.testing.assert_array_equal(logits, mixed(executor, name, [slot])[0])
    np.testing.assert_array_equal(together[1], plain)


@pytest.mark.parametrize("fmt", ["f16", "bf16"])
def test_rows_without_one_keep_their_bits_in_every_format(fmt: str) -> None:
    plain = mixed(native.executor("llama", fmt), "llama", [0])[0]
    np.testing.assert_array_equal(mixed(with_two(native.executor("llama", fmt)), "llama", [FIRST, 0])[1], plain)


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512", "amx"])
def test_every_instruction_set(isa: str, executor_or_skip: Callable[..., Executor]) -> None:
    found = mixed(with_two(executor_or_skip("llama", isa=isa)), "llama", [FIRST, 0, SECOND])
    expected = mixed(with_two(torch_executor("llama")), "llama", [FIRST, 0, SECOND])
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-4)


@pytest.fixture
def executor_or_skip() -> Callable[..., Executor]:
    from penstock.errors import ConfigError

    def make(name: str, **options: Any) -> Executor:
        try:
            return native_executor(name, **options)
        except ConfigError as error:
            pytest.skip(str(error))

    return make


def test_dynamic_mode_has_the_bits_of_static() -> None:
    static, dynamic = with_two(native_executor("llama")), with_two(native_executor("llama", mode="dynamic"))
    for a, b in zip(mixed(static, "llama", [0, FIRST]), mixed(dynamic, "llama", [0, FIRST]), strict=True):
        np.testing.assert_array_equal(a, b)
    shown: list[Traced] = []
    run = Runner(static)
    static.trace(run.batch([(run.add(IDS), 4)], adapters=np.array([FIRST], np.int32), return_logits=True), shown.append)
    kinds = [traced.op.kind for traced in shown]
    assert kinds.count("lora") == len(linear_shapes(static.program))


def test_a_loaded_adapter_changes_no_other() -> None:
    """Neither a larger rank nor more targets beside it: the plans are made anew, the bits stay."""
    executor = native_executor("llama")
    executor.load_adapter(FIRST, factors(executor.program, subset(executor), rank=2, seed=1))
    alone = mixed(executor, "llama", [FIRST])[0]
    executor.load_adapter(2, factors(executor.program, rank=33, seed=5))
    np.testing.assert_array_equal(mixed(executor, "llama", [2, FIRST])[1], alone)
    executor.unload_adapter(2)
    np.testing.assert_array_equal(mixed(executor, "llama", [FIRST])[0], alone)


@pytest.mark.parametrize("make", [native_executor, torch_executor])
def test_a_slot_is_replaced_and_emptied(make: Callable[[str], Executor]) -> None:
    executor = make("llama")
    plain = mixed(executor, "llama", [0])[0]
    executor.load_adapter(1, factors(executor.program, seed=1))
    first = mixed(executor, "llama", [1])[0]
    executor.load_adapter(1, factors(executor.program, subset(executor), seed=2))
    second = mixed(executor, "llama", [1])[0]
    assert not np.allclose(first, second)
    executor.unload_adapter(1)
    executor.unload_adapter(7)
    with pytest.raises(ExecutionError, match="adapter"):
        mixed(executor, "llama", [1])
    np.testing.assert_array_equal(mixed(executor, "llama", [0])[0], plain)


@pytest.mark.parametrize("make", [native_executor, torch_executor])
def test_what_does_not_fit_is_told_and_changes_nothing(make: Callable[[str], Executor]) -> None:
    executor = with_two(make("llama"))
    before = mixed(executor, "llama", [FIRST])[0]
    a, b, _ = factors(executor.program)["layers.0.attn.q.weight"]
    cases: tuple[tuple[int, Any, str], ...] = (
        (FIRST, {"layers.7.attn.q.weight": (a, b, 1.0)}, "no linear"),
        (FIRST, {"embed.weight": (a, b, 1.0)}, "no linear"),
        (FIRST, {"layers.0.attn.q.weight": (a[:, 1:], b, 1.0)}, "do not fit"),
        (FIRST, {"layers.0.attn.q.weight": (a, b[:, 1:], 1.0)}, "do not fit"),
        (FIRST, {"layers.0.attn.q.weight": (a.astype(np.float64), b, 1.0)}, "float32"),
        (0, {"layers.0.attn.q.weight": (a, b, 1.0)}, "slots count from 1"),
    )
    for slot, bad, says in cases:
        with pytest.raises(ExecutionError, match=says):
            executor.load_adapter(slot, bad)
    np.testing.assert_array_equal(mixed(executor, "llama", [FIRST])[0], before)
    with pytest.raises(ExecutionError, match="empty"):
        mixed(executor, "llama", [FIRST, 5])
    run = Runner(executor)
    with pytest.raises(ExecutionError, match="adapters"):
        executor.run(run.batch([(run.add(IDS), 2)], adapters=np.array([1, 1], np.int32)))


@pytest.mark.parametrize("make", [native_executor, torch_executor])
def test_cache_rows_from_outside(make: Callable[[str], Executor]) -> None:
    """What ``write_kv`` writes is what the program itself would have stored."""
    executor = make("alibi")  # keys without rotation, so that any rows do
    run = Runner(executor)
    kv = executor.program.kv[0]
    rng = np.random.default_rng(0)
    k, v = (rng.standard_normal((5, kv.kv_heads * kv.head_dim)).astype(np.float32) for _ in range(2))
    logits = []
    for scale in (1.0, 1.0, 2.0):
        seq = run.add([0] * 5 + IDS)
        seq.blocks, seq.computed = [run.free.pop(), run.free.pop()], 5
        slots = seq.blocks[0] * run.block_size + np.arange(5, dtype=np.int64)
        for layer in range(len(executor.program.kv)):
            executor.write_kv(layer, slots, scale * k, v)
        logits.append(run.step([(seq, 4)])[0][0])
    np.testing.assert_array_equal(logits[0], logits[1])
    assert not np.allclose(logits[0], logits[2])
    for layer, where, keys in (
        (9, slots, k),
        (0, slots + 10**6, k),
        (0, slots, k[:, 1:]),
        (0, slots[1:], k),
        (0, -slots - 1, k),
    ):
        with pytest.raises(ExecutionError):
            executor.write_kv(layer, where, keys, v)


@pytest.mark.parametrize("make", [native_executor, torch_executor])
@pytest.mark.parametrize("name", ["llama", "head", "post"])
def test_embeddings_from_outside(make: Callable[[str], Executor], name: str) -> None:
    """Given what the table has for them, other ids do not matter."""
    executor = make(name)
    table = native.weights(executor.program)
    weight = next(data.arrays["weight"] for spec, data in table if spec.name == "embed.weight")
    scale = executor.program.ops[0].attrs["scale"]
    run = Runner(executor)
    expected = run.step([(run.add(IDS), 6)])[0][0]
    embeds = (weight[IDS[:6]] * np.float32(scale)).astype(np.float32)
    found = run.step([(run.add([1] * 6), 6)], embeds=embeds)[0][0]
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ExecutionError, match="embeds"):
        run.step([(run.add([1] * 6), 6)], embeds=embeds[:, 1:].copy())
    with pytest.raises(ExecutionError, match="embeds"):
        run.step([(run.add([1] * 6), 6)], embeds=embeds[1:].copy())
