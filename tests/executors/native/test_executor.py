"""The protocol, wishes that cannot be met, memory, and processes that fork."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from penstock.errors import CheckpointError, ConfigError, ExecutionError, UnsupportedError
from penstock.executors.base import kv_block_bytes
from penstock.executors.native.executor import NativeExecutor
from penstock.executors.native.extension import extension
from penstock.models.decoder import build
from penstock.quant.scheme import WeightData
from tests.executors.native.some import IDS, executor, good, runner, weights
from tests.harness import Runner, limits, sampling
from tests.models.some import ARCHITECTURES

LLAMA = build(ARCHITECTURES["llama"])


def test_info_says_what_was_resolved() -> None:
    info = executor(fmt="bf16", threads=2, isa="generic").info
    assert (info.name, info.isa, info.threads, info.compute) == ("native", "generic", 2, "f32")
    assert info.details["weights"] == "bf16"
    if "avx512" in __import__("penstock._native", fromlist=["x"]).possible_isas():
        assert executor(fmt="bf16", isa="avx512").info.compute == "bf16"
        assert executor(fmt="bf16", isa="avx512", compute="f32").info.compute == "f32"
    if "amx" in __import__("penstock._native", fromlist=["x"]).possible_isas():
        assert executor(fmt="bf16", isa="amx").info.compute == "bf16"


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({"isa": "nonsense"}, "nonsense: no such instruction set; possible here: generic"),
        ({"compute": "i4"}, "auto, float32 or bfloat16"),
        ({"compute": "bf16", "isa": "generic"}, "no bfloat16 dot product"),
        ({"mode": "eager"}, "static or dynamic"),
        ({"threads": 5000}, "1024"),
    ],
)
def test_wishes_that_cannot_be_met(wish: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        NativeExecutor(LLAMA, limits(), **wish)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("PENSTOCK_ISA", "nonsense", "PENSTOCK_ISA=nonsense.*possible here: generic"),
        ("PENSTOCK_THREADS", "many", "PENSTOCK_THREADS=many"),
        ("PENSTOCK_THREADS", "0", "PENSTOCK_THREADS=0"),
    ],
)
def test_environment_that_makes_no_sense(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=says):
        NativeExecutor(LLAMA, limits())


def test_environment_is_honoured_and_arguments_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_ISA", "generic")
    monkeypatch.setenv("PENSTOCK_THREADS", "3")
    info = NativeExecutor(LLAMA, limits()).info
    assert (info.isa, info.threads) == ("generic", 3)
    assert NativeExecutor(LLAMA, limits(), threads=1).info.threads == 1


def test_an_op_it_does_not_have() -> None:
    op = replace(LLAMA.ops[-1], kind="all_reduce")
    with pytest.raises(UnsupportedError, match="no 'all_reduce' yet"):
        NativeExecutor(LLAMA.with_ops((*LLAMA.ops, op)), limits())


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"block_size": 24}, "multiple of 16"),
        ({"num_blocks": 0}, "num_blocks"),
        ({"kv_dtype": "f64"}, "f64"),
        ({"num_blocks": 1 << 29, "block_size": 4096}, "KV cache"),
    ],
)
def test_limits_that_cannot_be(bad: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        NativeExecutor(LLAMA, replace(limits(), **bad))


def test_loading() -> None:
    made = NativeExecutor(LLAMA, limits(), threads=1)
    with pytest.raises(ExecutionError, match="load"):
        made.run(Runner(made).batch([(Runner(made).add(IDS), 2)]))
    stream = list(weights(LLAMA))
    with pytest.raises(CheckpointError, match=r"1 weights are missing: head\.weight"):
        made.load(w for w in stream if w[0].name != "head.weight")
    with pytest.raises(CheckpointError, match="comes twice"):
        made.load(stream)
    spec, data = stream[0]
    short = WeightData("f32", (3, 4), {"weight": np.zeros((3, 4), np.float32)})
    for wrong, says, kind in (
        (short, "shape", CheckpointError),
        (WeightData("int3", data.shape, data.arrays), "int3", UnsupportedError),
    ):
        with pytest.raises(kind, match=says):
            NativeExecutor(LLAMA, limits(), threads=1).load([(spec, wrong)])


def test_weights_from_strided_and_misaligned_memory() -> None:
    def odd(array: Any) -> Any:
        raw = np.zeros(array.nbytes + 1, np.uint8)
        view = (
            raw[1:].view(array.dtype)
            if array.dtype.itemsize == 1
            else np.frombuffer(raw.data, array.dtype, array.size, 1)
        )
        view = view.reshape(array.shape)
        view[...] = array
        return view

    forms: list[Callable[[Any], Any]] = [
        odd,
        np.asfortranarray,
        lambda a: np.repeat(a, 2, 0)[::2],
        lambda a: a[::-1].copy()[::-1],
    ]
    want = runner().prefill(IDS)
    for form in forms:
        made = NativeExecutor(LLAMA, limits(), threads=1)
        made.load((s, replace(d, arrays={"weight": form(d.arrays["weight"])})) for s, d in weights(LLAMA))
        np.testing.assert_array_equal(Runner(made).prefill(IDS), want)


def test_close_is_final_and_idempotent() -> None:
    run = runner()
    batch = run.batch([(run.add(IDS), 4)])
    run.executor.close()
    run.executor.close()
    for call in (lambda: run.executor.run(batch), lambda: run.executor.info, lambda: run.executor.memory):
        with pytest.raises(ExecutionError, match="closed"):
            call()


def test_a_batch_without_sampling_gives_nothing_but_what_is_asked() -> None:
    run = runner()
    out = run.executor.run(run.batch([(run.add(IDS), 5)]))
    assert (out.token_ids.size, out.invalid.size, out.logprobs, out.logits, out.hidden) == (0, 0, None, None, None)


def test_a_prefill_step_may_want_no_logits() -> None:
    run = runner()
    seq = run.add(IDS)
    batch = replace(run.batch([(seq, 12)]), logits_rows=np.zeros(0, np.int32))
    run.executor.run(batch)
    seq.computed = 12
    np.testing.assert_array_equal(run.step([(seq, 8)])[0][0], runner().prefill(IDS)[12:])


def test_forked_blocks() -> None:
    """A copy of a half-filled block goes its own way."""
    run = runner(threads=2)
    seq = run.add(IDS[:10])
    run.step([(seq, 10)])
    twin = run.add(IDS[:10])
    twin.blocks, twin.computed = [run.free.pop()], 10
    copies = np.array([[seq.blocks[0], twin.blocks[0]]], np.int32)
    seq.ids += [7, 8]
    twin.ids += [20, 21]
    (a, b), _ = run.step([(seq, 2), (twin, 2)], block_copies=copies)
    alone = runner()
    np.testing.assert_array_equal(a, alone.prefill([*IDS[:10], 7, 8])[10:])
    np.testing.assert_array_equal(b, alone.prefill([*IDS[:10], 20, 21])[10:])
    with pytest.raises(ExecutionError, match="block_copies"):
        run.executor.run(run.batch([(run.add(IDS), 1)], block_copies=np.array([[0, 24]], np.int32)))


def test_greedy_tokens_are_sampled_inside_the_step() -> None:
    run = runner(threads=2)
    out = run.executor.run(
        run.batch([(run.add(IDS), 20)], sampling=sampling([19, 3], 30, num_logprobs=2), return_logits=True)
    )
    assert out.logits is not None
    assert out.top_ids is not None
    assert out.token_ids.tolist() == [int(out.logits[19].argmax()), int(out.logits[3].argmax())]
    assert out.top_ids[:, 0].tolist() == out.token_ids.tolist()


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_arrays_may_be_filled_anew_between_steps(dtype: Any) -> None:
    """In place, also where they are converted on the way; or others take their place in the same batch."""
    run = runner()
    batch = run.batch([(run.add(IDS[:4]), 4)], return_logits=True)
    batch.token_ids = batch.token_ids.astype(dtype)
    run.executor.run(batch)
    batch.token_ids[:] = IDS[4:8]
    np.testing.assert_array_equal(run.executor.run(batch).logits, runner().prefill(IDS[4:8]))
    batch.token_ids = np.array(IDS[8:12], dtype)
    np.testing.assert_array_equal(run.executor.run(batch).logits, runner().prefill(IDS[8:12]))
    batch.token_ids = None  # type: ignore[assignment]
    with pytest.raises(ExecutionError, match="token_ids must be an array"):
        run.executor.run(batch)


def test_memory_is_counted_as_blocks_fill() -> None:
    run = runner()
    memory = run.executor.memory
    block = kv_block_bytes(LLAMA, 16, "f32")
    assert memory.kv_reserved == 24 * block
    assert memory.kv_used == 0
    assert memory.weights >= sum(int(np.prod(w.shape)) * 4 for w in LLAMA.weights.values())
    seq = run.add(IDS)
    run.step([(seq, 16)])
    assert run.executor.memory.kv_used == block
    run.step([(seq, 4)])
    assert run.executor.memory.kv_used == 2 * block
    assert run.executor.memory.workspace > 0


GROW = """
from tests.executors.native.some import *
def rss():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1]) // 1024
before = rss()
run = runner(num_blocks=1 << 20, block_size=256, max_context=1 << 17, max_tokens=1 << 12)
program = run.executor.program
start = rss()
seq = run.add([1] * (1 << 14))
for _ in range(4):
    run.step([(seq, 1 << 12)], every_row=False)
print(start - before, rss() - start, run.executor.memory.kv_reserved >> 20, run.executor.memory.kv_used >> 20)
"""


def test_kv_memory_is_address_space_until_it_fills() -> None:
    out = subprocess.run([sys.executable, "-c", GROW], capture_output=True, text=True, check=True, timeout=100).stdout
    made, grown, reserved, used = map(int, out.split())
    assert reserved > 30_000
    assert made < 64
    assert used == (1 << 14) * 2 * 2 * 8 * 4 >> 20
    assert used <= grown < used + 64


def test_a_forked_child_is_told_instead_of_hanging() -> None:
    run = runner(threads=2)
    batch = good(run)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            run.executor.run(batch)
            text = "no error"
        except ExecutionError as error:
            text = str(error)
        run.executor.close()
        os.write(write, text.encode())
        os._exit(0)
    os.close(write)
    text = os.read(read, 1000).decode()
    os.close(read)
    assert os.waitpid(pid, 0)[1] == 0
    assert "forked" in text
    assert run.executor.run(batch).invalid.tolist() == [0, 0], "the parent goes on"


def test_two_callers_at_once_are_told_or_take_turns() -> None:
    run = runner(threads=2)
    batch = run.batch([(run.add(IDS), 20)], sampling=sampling([19], 30))
    want = run.executor.run(batch).token_ids.tolist()
    errors: list[str] = []

    def many() -> None:
        for _ in range(50):
            try:
                assert run.executor.run(batch).token_ids.tolist() == want
            except ExecutionError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=many) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("one caller at a time" in e for e in errors)


def test_an_idle_team_costs_no_cpu() -> None:
    run = runner(threads=2)
    run.executor.run(good(run))
    import time

    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1


@pytest.mark.parametrize(
    ("stored", "compute", "activation", "isa", "kept"),
    [
        ("f16", "auto", "auto", "avx512", "bf16"),
        ("f16", "auto", "int8", "avx512", "bf16"),
        ("f16", "auto", "float", "avx512", "f16"),  # exact inputs meet an exact cache
        ("f16", "f32", "auto", "avx512", "f16"),
        ("f16", "auto", "auto", "avx2", "f16"),
        ("f16", "auto", "int8", "generic", "f16"),
        ("f32", "auto", "auto", "avx512", "f32"),
        ("f16", "auto", "auto", "amx", "bf16"),
        ("bf16", "auto", "float", "avx2", "bf16"),
    ],
)
def test_what_keys_and_values_of_quantised_models_are_kept_in(
    stored: str, compute: str, activation: str, isa: str, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isa not in extension().possible_isas():
        pytest.skip(f"this CPU has no {isa}")
    assert NativeExecutor.cache_type(stored, compute, activation, isa) == kept
    monkeypatch.setenv("PENSTOCK_ISA", isa)
    for wish in (None, "", "auto"):
        assert NativeExecutor.cache_type(stored, compute, activation, wish) == kept
    with pytest.raises(ConfigError, match="possible here"):
        NativeExecutor.cache_type(stored, compute, activation, "mmx")
