"""The executor protocol: who runs a program. Three verbs: ``load`` weights, ``run`` a batch, ``close``.

An executor owns tensors, KV memory and (later) graphs. It is made for one program and one set of limits, and knows
neither requests nor text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.models.program import KVSpec, Op, Program, WeightSpec
from penstock.quant.scheme import WeightData
from penstock.types import F32, I64, Batch, StepOutput


@dataclass(frozen=True, slots=True)
class Limits:
    """What one executor must be able to hold. Rows are tokens of a step; ``logits_rows`` rows of logits of a step."""

    max_tokens: int
    max_seqs: int
    max_logits_rows: int
    max_context: int
    num_blocks: int
    block_size: int
    kv_dtype: Literal["f32", "f16", "bf16", "i8"]


@dataclass(frozen=True, slots=True)
class ExecutorInfo:
    """What was resolved at start, for the one table that is printed: name, ISA, threads, arithmetic, kernels."""

    name: str
    isa: str
    threads: int
    compute: str
    details: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: ``weights`` and ``workspace`` taken, ``kv_reserved`` as address space, ``kv_used`` touched so far;
    ``workspace_reserved`` is what the workspace may grow to."""

    weights: int
    workspace: int
    kv_reserved: int
    kv_used: int
    workspace_reserved: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """A weight as an executor holds it: its format, what its inputs become (``f32``, ``bf16`` or ``i8``), bytes."""

    format: str
    inputs: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class Traced:
    """One op as dynamic mode ran it: its outputs (views, valid during the hook) and the seconds it took."""

    index: int
    op: Op
    outputs: Mapping[str, NDArray[np.float32]]
    seconds: float


Hook = Callable[[Traced], None]
LoraFactors = tuple[F32, F32, float]
"""A [r, k], B [n, r], scale: what is added to W [n, k] is scale * B A."""
Adapter = Mapping[str, LoraFactors]
"""The factors of one adapter, by the canonical name of the weight."""
WeightStream = Iterable[tuple[WeightSpec, WeightData]]


class Executor(Protocol):
    """Runs one program. Not thread-safe: one caller at a time."""

    program: Program
    limits: Limits
    takes_words: bool
    """Whether :meth:`load` takes 4-bit codes as a file's words (`quant.scheme.WordScheme`)."""

    @property
    def info(self) -> ExecutorInfo: ...

    @property
    def memory(self) -> Memory: ...

    def load(self, weights: WeightStream) -> None:
        """Take every weight of the program once, converting as it comes. ``CheckpointError`` if one is absent."""

    def run(self, batch: Batch) -> StepOutput:
        """One step. Raises ``ExecutionError``; the KV rows of the batch are then undefined, nothing else changes."""

    def trace(self, batch: Batch, hook: Hook) -> StepOutput:
        """The same step op by op over the unfused program, each op shown to ``hook``; the bits of :meth:`run`."""

    def held(self, weight: str) -> Held:
        """How the weight of this canonical name is held. Raises ``ExecutionError`` for one that was not loaded."""

    def load_adapter(self, slot: int, tensors: Adapter) -> None:
        """Take low-rank factors for sequences whose ``Batch.adapters`` is ``slot`` (from 1), in place of others there.

        Raises ``ExecutionError`` for a target that no linear has or a shape that does not fit; nothing changes then.
        """

    def unload_adapter(self, slot: int) -> None:
        """Free a slot that no sequence uses any more. An empty one is left as it is."""

    def write_kv(self, layer: int, slots: I64, k: F32, v: F32) -> None:
        """Write rows of one layer's cache: ``k`` and ``v`` [P, kv_heads * head_dim] at ``slots`` [P]."""

    def close(self) -> None:
        """Free everything. Idempotent."""


def kv_token_bytes(kv: KVSpec, kv_dtype: str) -> int:
    """Bytes of a token's keys and values in one layer. ``i8``: one an element, filled up to fours, and a float32 scale
    a head."""
    head = (
        (kv.head_dim + 3) // 4 * 4 + 4 if kv_dtype == "i8" else kv.head_dim * {"f32": 4, "f16": 2, "bf16": 2}[kv_dtype]
    )
    return 2 * kv.kv_heads * head


def kv_block_bytes(program: Program, block_size: int, kv_dtype: str) -> int:
    """Bytes of one KV block over all layers."""
    return block_size * sum(kv_token_bytes(kv, kv_dtype) for kv in program.kv)


def resolve(name: str) -> type[Any]:
    """The executor class for ``native``, ``torch`` or ``auto`` (native), imported only now.

    Its signature is ``Executor(program, limits, *, compute, threads, isa, mode)``; ``cache_type(stored, compute,
    activation, isa)`` says in what it likes to keep keys and values of a quantised model.
    """
    if name == "torch":
        from penstock.executors.torch.executor import TorchExecutor

        return TorchExecutor
    from penstock.executors.native.executor import NativeExecutor

    return NativeExecutor
