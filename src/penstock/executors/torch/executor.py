"""The plain executor: a program op by op on CPU tensors in float32. What every other executor is compared with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from penstock.errors import CheckpointError, ConfigError, ExecutionError
from penstock.executors.adapters import check_adapter, check_adapters, check_embeds, check_kv
from penstock.executors.base import (
    Adapter,
    ExecutorInfo,
    Held,
    Hook,
    Limits,
    Memory,
    Traced,
    WeightStream,
    kv_block_bytes,
)  # fmt: skip
from penstock.executors.sampling import sample
from penstock.executors.torch.ops import RUN
from penstock.executors.torch.step import Cache, Factors, Step, make_step
from penstock.models.passes.adapters import attach_adapters
from penstock.models.program import Program
from penstock.quant.dequantise import dequantise
from penstock.types import F32, I64, Batch, StepOutput


class TorchExecutor:
    """Runs any program, fused or not, as it stands; both modes are one. Implements ``executors.base.Executor``."""

    takes_words = False

    def __init__(
        self, program: Program, limits: Limits, *, compute: str = "auto", threads: int = 0, isa: str | None = None,
        mode: str = "dynamic", activation: str = "auto",
    ) -> None:  # fmt: skip
        if compute not in ("auto", "f32", "f16"):
            raise ConfigError(f"the torch executor on the CPU computes in float32 only, not {compute}: dtype=float32")
        if activation not in ("auto", "float"):
            raise ConfigError(f"the torch executor keeps inputs in float, not {activation}: use activation=float")
        if threads:
            torch.set_num_threads(threads)
        self.program, self.limits = program, limits
        self._weights: dict[str, Tensor] = {}
        self._constants = {name: torch.tensor(v, dtype=torch.float32) for name, v in program.constants.items()}
        slots = limits.num_blocks * limits.block_size
        self._caches = tuple(Cache(spec, slots, limits.kv_dtype) for spec in program.kv)
        self._touched = np.zeros(limits.num_blocks, dtype=np.bool_)
        self._plain = _Ordered(program, _last_uses(program))
        self._adapted: _Ordered | None = None
        self._adapters: dict[int, dict[str, Factors]] = {}

    @staticmethod
    def cache_type(stored: str, compute: str, activation: str, isa: str | None) -> str:
        """What keys and values of a quantised model are kept in by themselves: what its plain weights have."""
        return stored

    @property
    def info(self) -> ExecutorInfo:
        details = {"torch": torch.__version__, "kv": self.limits.kv_dtype}
        return ExecutorInfo("torch", "cpu", torch.get_num_threads(), "f32", details)

    @property
    def memory(self) -> Memory:
        block = kv_block_bytes(self.program, self.limits.block_size, self.limits.kv_dtype)
        return Memory(
            weights=sum(int(w.nbytes) for w in self._weights.values()),
            workspace=0,
            kv_reserved=block * self.limits.num_blocks,
            kv_used=block * int(self._touched.sum()),
        )

    def load(self, weights: WeightStream) -> None:
        for spec, data in weights:
            if data.shape != spec.shape:
                raise CheckpointError(f"weight '{spec.name}': expected {list(spec.shape)}, found {list(data.shape)}")
            self._weights[spec.name] = torch.from_numpy(dequantise(data))
        absent = [name for name in self.program.weights if name not in self._weights]
        if absent:
            raise CheckpointError(f"{len(absent)} weights were not given: {', '.join(absent[:8])}")

    def run(self, batch: Batch) -> StepOutput:
        return self._run(batch, None)

    def trace(self, batch: Batch, hook: Hook) -> StepOutput:
        return self._run(batch, hook)

    def held(self, weight: str) -> Held:
        if weight not in self._weights:
            raise ExecutionError(f"no weight '{weight}' is loaded")
        return Held("f32", "f32", int(self._weights[weight].nbytes))

    def load_adapter(self, slot: int, tensors: Adapter) -> None:
        check_adapter(self.program, slot, tensors)
        self._adapters[slot] = {
            name: (torch.from_numpy(a.copy()), torch.from_numpy(b.copy()), scale)
            for name, (a, b, scale) in tensors.items()
        }
        self._attach()

    def unload_adapter(self, slot: int) -> None:
        self._adapters.pop(slot, None)
        self._attach()

    def write_kv(self, layer: int, slots: I64, k: F32, v: F32) -> None:
        self._live()
        check_kv(self.program, self.limits, layer, slots, k, v)
        cache = self._caches[layer]
        self._touched[slots // self.limits.block_size] = True
        for rows, into in ((k, cache.keys), (v, cache.values)):
            into.write(torch.from_numpy(slots), torch.from_numpy(rows))

    def close(self) -> None:
        self._weights, self._caches, self._adapters, self._adapted = {}, (), {}, None

    def _attach(self) -> None:
        """The program with the ops of all adapters that are loaded, for steps that use one."""
        targets = {name for factors in self._adapters.values() for name in factors}
        program = attach_adapters(self.program, targets)
        self._adapted = _Ordered(program, _last_uses(program)) if targets else None

    def _run(self, batch: Batch, hook: Hook | None) -> StepOutput:
        self._check(batch)
        with torch.inference_mode():
            for source, target in () if batch.block_copies is None else batch.block_copies.tolist():
                for cache in self._caches:
                    cache.copy_block(source, target, self.limits.block_size)
                self._touched[target] = True
            self._touched[batch.slots // self.limits.block_size] = True
            step = make_step(
                batch, self.limits.block_size, weights=self._weights, constants=self._constants, caches=self._caches,
                adapters=self._adapters,
            )  # fmt: skip
            adapted = self._adapted if batch.adapters is not None and batch.adapters.any() else None
            try:
                values = self._interpret(adapted or self._plain, step, batch, hook)
            except RuntimeError as error:
                raise ExecutionError(f"torch: {error}") from error
        return self._output(batch, values)

    def _interpret(self, order: _Ordered, step: Step, batch: Batch, hook: Hook | None) -> dict[str, Tensor]:
        values = {"ids": torch.from_numpy(batch.token_ids.astype(np.int64)), "positions": step.positions}
        for index, op in enumerate(order.program.ops):
            start = time.perf_counter()
            outputs = RUN[op.kind](step, op, [values[name] for name in op.inputs])
            seconds = time.perf_counter() - start
            values.update(zip(op.outputs, outputs, strict=True))
            if hook is not None:
                shown = {name: y.numpy() for name, y in zip(op.outputs, outputs, strict=True)}
                hook(Traced(index, op, shown, seconds))
            for name in order.last_use[index]:
                values.pop(name, None)
        return values

    def _output(self, batch: Batch, values: Mapping[str, Tensor]) -> StepOutput:
        logits = values[self.program.outputs["logits"]].numpy()
        output = StepOutput(np.zeros(0, np.int32), np.zeros(0, np.uint8))
        if batch.sampling is not None:
            output = sample(logits, batch.sampling)
        if batch.return_logits:
            output.logits = logits
        if batch.return_hidden:
            output.hidden = values[self.program.outputs["hidden"]].numpy()
        return output

    def _live(self) -> None:
        if not self._caches:
            raise ExecutionError("the executor is closed")

    def _check(self, batch: Batch) -> None:
        """Bounds that an engine keeps; crossing one is a fault in it, told before anything is touched."""
        self._live()
        check_adapters(batch, self._adapters)
        check_embeds(self.program, batch)
        limits, tokens = self.limits, batch.num_tokens
        for what, found, most in (
            ("tokens", tokens, limits.max_tokens),
            ("sequences", batch.num_seqs, limits.max_seqs),
            ("rows of logits", len(batch.logits_rows), limits.max_logits_rows),
            ("cache rows", max(batch.context_lens, default=0), limits.max_context),
            ("slot", max(batch.slots, default=-1), limits.num_blocks * limits.block_size - 1),
            ("row of logits", max(batch.logits_rows, default=-1), tokens - 1),
        ):
            if found > most:
                raise ExecutionError(f"a step asks for {what} {found}, at most {most} fit this executor")
        if (
            tokens
            and not 0 <= min(batch.token_ids) <= max(batch.token_ids) < self.program.weights["embed.weight"].shape[0]
        ):
            raise ExecutionError("a step has a token id outside the vocabulary")


@dataclass(frozen=True, slots=True)
class _Ordered:
    """A program, and which values can go after each of its ops."""

    program: Program
    last_use: list[list[str]]


def _last_uses(program: Program) -> list[list[str]]:
    """Values that no later op reads, by the op after which they can go."""
    kept = set(program.outputs.values())
    last: dict[str, int] = {}
    for index, op in enumerate(program.ops):
        last.update(dict.fromkeys((*op.inputs, *op.outputs), index))
    gone: list[list[str]] = [[] for _ in program.ops]
    for name, index in last.items():
        if name not in kept:
            gone[index].append(name)
    return gone
