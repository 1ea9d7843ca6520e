"""The CPU executor: weights packed at load, a whole step in one call into C++ without the GIL.

``mode`` static runs the fused and planned program; dynamic, and :meth:`NativeExecutor.trace`, interpret the program as
it was built, op by op. Both give the same bits.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from penstock.errors import CheckpointError, ConfigError, ExecutionError, PenstockError
from penstock.executors.adapters import check_adapter, check_kv
from penstock.executors.base import Adapter, ExecutorInfo, Held, Hook, Limits, Memory, Traced, WeightStream
from penstock.executors.native.adapters import NativeAdapters
from penstock.executors.native.extension import extension
from penstock.executors.native.lower import Loaded, Lora, Lowered, check_supported, lower
from penstock.executors.native.weights import BF16_ISAS, resolve_arithmetic, take
from penstock.models.passes.fuse import fuse
from penstock.models.passes.memory import plan_memory
from penstock.models.program import Program
from penstock.types import F32, I64, Batch, StepOutput


class NativeExecutor:
    """Runs one program on the CPU.

    ``compute``: ``auto`` rounds the inputs of bfloat16 weights to bfloat16 where the CPU has that dot product, ``bf16``
    insists on it, ``f32`` keeps all inputs in float32. ``activation``: the inputs of quantised weights (see
    :class:`~penstock.executors.native.weights.Arithmetic`). ``threads`` 0 takes ``PENSTOCK_THREADS``, else one per
    core; ``isa`` None takes ``PENSTOCK_ISA``, else the best. Raises ``ConfigError`` for a wish that this machine cannot
    meet, ``UnsupportedError`` for an op it does not have.

    The KV cache is address space that becomes memory block by block, as steps first write to them. Blocks that the
    engine frees keep their memory for their next owner, until the executor is closed.
    """

    takes_words = True

    def __init__(
        self,
        program: Program,
        limits: Limits,
        *,
        compute: str = "auto",
        threads: int = 0,
        isa: str | None = None,
        activation: str = "auto",
        mode: Literal["static", "dynamic"] = "static",
    ) -> None:
        check_supported(program)
        if mode not in ("static", "dynamic"):
            raise ConfigError(f"mode must be static or dynamic, got {mode!r}")
        self.program, self.limits, self.mode = program, limits, mode
        self._core: Any = _make_core(program, limits, isa, threads)
        self._arithmetic = resolve_arithmetic(compute, activation, self._core.isa)
        self._weights: dict[str, Loaded] = {}
        self._sizes: dict[str, int] = {}
        self._static: Lowered | None = None
        self._dynamic: Lowered | None = None
        self._adapters = NativeAdapters(self._core, program, self._lower)

    @staticmethod
    def cache_type(stored: str, compute: str, activation: str, isa: str | None) -> str:
        """What keys and values of a model with quantised weights are kept in by themselves; ``stored``: its plain
        weights' type. bfloat16 is as small as float16, and where inputs become whole numbers anyway and the CPU has its
        dot product, attention is faster by half with it. Raises ``ConfigError`` as the executor itself does."""
        try:
            found = extension().resolve_isa(isa or "")
        except ValueError as error:
            raise ConfigError(str(error)) from error
        rounds = resolve_arithmetic(compute, activation, found).int8
        return "bf16" if stored == "f16" and rounds and found in BF16_ISAS else stored

    # ---------------------------------------------------------------------------------------------------- protocol

    @property
    def info(self) -> ExecutorInfo:
        core = self._open()
        formats = Counter(w.format for w in self._weights.values() if w.format)
        arithmetic = {w.inputs for w in self._weights.values() if w.format} or {"f32"}
        details = {"mode": self.mode, "kv_cache": self.limits.kv_dtype, "weights": " ".join(sorted(formats))}
        return ExecutorInfo("native", core.isa, core.threads, "+".join(sorted(arithmetic)), details)

    @property
    def memory(self) -> Memory:
        core = self._open()
        workspace = sum(low.plan.workspace_bytes for low in (self._static, self._dynamic) if low is not None)
        workspace += self._adapters.workspace
        planned = plan_memory(self.program).nbytes(self.limits.max_tokens, self.limits.max_logits_rows)
        return Memory(core.weight_bytes, workspace, core.kv_reserved, core.kv_used, max(planned, workspace))

    def load(self, weights: WeightStream) -> None:
        """Take every weight once, packing it for this CPU. ``CheckpointError`` names what is missing or wrong."""
        core = self._open()
        if self._static is not None:
            raise ExecutionError("the weights are loaded already; make another executor for others")
        for spec, data in weights:
            if self.program.weights.get(spec.name) != spec or spec.name in self._weights:
                raise CheckpointError(f"weight '{spec.name}' {list(spec.shape)} is not wanted, or comes twice")
            before = core.weight_bytes
            with _errors:
                self._weights[spec.name] = take(core, spec, data, self._arithmetic)
            self._sizes[spec.name] = core.weight_bytes - before
        missing = [name for name in self.program.weights if name not in self._weights]
        if missing:
            raise CheckpointError(f"{len(missing)} weights are missing: {', '.join(missing[:8])}")
        with _errors:
            if self.mode == "static":
                self._static = self._lower(self.program, True)
            else:
                self._static = self._unfused()

    def run(self, batch: Batch) -> StepOutput:
        if self.mode == "dynamic":
            return self.trace(batch, lambda traced: None)
        low = self._ready(self._static)
        with _errors:
            if _adapted(batch):
                low = self._adapters.plan(fused=True)
            output = _output(batch, low)
            ready = batch.sampling.ready if batch.sampling is not None else None
            if ready is None:
                low.plan.step(batch, output)
                return output
            low.plan.forward(batch, output)
        ready()
        with _errors:
            low.plan.end()
        return output

    def trace(self, batch: Batch, hook: Hook) -> StepOutput:
        self._ready(self._static)
        with _errors:
            low = self._adapters.plan(fused=False) if _adapted(batch) else self._unfused()
            output = _output(batch, low)
            low.plan.begin(batch, output)
        for i, (op, (first, last)) in enumerate(zip(low.program.ops, low.spans, strict=True)):
            start = time.perf_counter()
            with _errors:
                for step in range(first, last):
                    low.plan.run_op(step)
            seconds = time.perf_counter() - start
            hook(Traced(i, op, {name: low.plan.view(low.values[name]) for name in op.outputs}, seconds))
        if batch.sampling is not None and batch.sampling.ready is not None:
            batch.sampling.ready()
        with _errors:
            low.plan.end()
        return output

    def held(self, weight: str) -> Held:
        if weight not in self._weights:
            raise ExecutionError(f"no weight '{weight}' is loaded")
        loaded = self._weights[weight]
        return Held(loaded.format or "f32", loaded.inputs, self._sizes[weight])

    def load_adapter(self, slot: int, tensors: Adapter) -> None:
        self._ready(self._static)
        check_adapter(self.program, slot, tensors)
        with _errors:
            self._adapters.load(slot, tensors)
            if self.mode == "static":
                self._adapters.plan(fused=True)

    def unload_adapter(self, slot: int) -> None:
        self._open()
        with _errors:
            self._adapters.unload(slot)

    def write_kv(self, layer: int, slots: I64, k: F32, v: F32) -> None:
        core = self._open()
        check_kv(self.program, self.limits, layer, slots, k, v)
        with _errors:
            core.write_kv(layer, *(np.ascontiguousarray(rows) for rows in (slots, k, v)))

    def close(self) -> None:
        self._adapters = NativeAdapters(None, self.program, self._lower)
        self._static = self._dynamic = self._core = None
        self._weights = {}

    # ---------------------------------------------------------------------------------------------------- inside

    def _open(self) -> Any:
        if self._core is None:
            raise ExecutionError("the executor is closed; load the model again")
        return self._core

    def _ready(self, low: Lowered | None) -> Lowered:
        self._open()
        if low is None:
            raise ExecutionError("no weights are loaded; call load() first")
        return low

    def _same(self, names: tuple[str, ...]) -> bool:
        return len({(self._weights[name].inputs, self._weights[name].key) for name in names}) == 1

    def _unfused(self) -> Lowered:
        if self._dynamic is None:
            self._dynamic = self._lower(self.program, False)
        return self._dynamic

    def _lower(self, program: Program, fused: bool, loras: Mapping[str, Lora] | None = None) -> Lowered:
        program = fuse(program, self._same) if fused else program
        return lower(self._open(), program, self._weights, loras)


class _Errors:
    """What the extension raises inside, as one of our kinds. A class, since a generator costs a step's tenth."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (ValueError, TypeError, RuntimeError, MemoryError)) and not isinstance(
            error, PenstockError
        ):
            raise ExecutionError(str(error)) from error


_errors = _Errors()


def _make_core(program: Program, limits: Limits, isa: str | None, threads: int) -> Any:
    native = extension()
    try:
        core = native.Executor(
            max_tokens=limits.max_tokens, max_seqs=limits.max_seqs, max_logits_rows=limits.max_logits_rows,
            max_context=limits.max_context, num_blocks=limits.num_blocks, block_size=limits.block_size,
            kv_dtype=limits.kv_dtype, isa=isa or "", threads=_threads(threads),
            pin=os.environ.get("PENSTOCK_PIN") == "1",
        )  # fmt: skip
        for kv in program.kv:
            core.add_layer(kv.kv_heads, kv.head_dim)
    except (ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise ConfigError(str(error)) from error
    return core


def _threads(wanted: int) -> int:
    text = os.environ.get("PENSTOCK_THREADS", "")
    if wanted or not text:
        return wanted
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise ConfigError(f"PENSTOCK_THREADS={text}: set a whole number of threads from 1 to 1024, or unset it")
    return int(text)


def _adapted(batch: Batch) -> bool:
    """Whether any sequence of the step has an adapter."""
    return batch.adapters is not None and bool(batch.adapters.any())


def _output(batch: Batch, low: Lowered | None) -> StepOutput:
    """Empty arrays for all that the batch asks for."""
    s = batch.sampling
    n = 0 if s is None else s.row.shape[0]
    output = StepOutput(np.empty(n, np.int32), np.empty(n, np.uint8))
    if low is not None and batch.return_logits:
        output.logits = np.empty((batch.logits_rows.shape[0], low.plan.vocab), np.float32)
    if low is not None and batch.return_hidden:
        output.hidden = np.empty((batch.num_tokens, low.plan.hidden_width), np.float32)
    most = -1 if s is None else max(s.num_logprobs.tolist(), default=-1)
    if most >= 0:
        output.logprobs, output.ranks = np.empty(n, np.float32), np.empty(n, np.int32)
        output.top_ids, output.top_logprobs = np.empty((n, most), np.int32), np.empty((n, most), np.float32)
    return output
