"""What an op must move and compute: the least any machine could do with, for a roofline.

Counted are the bytes of weights as the executor holds them, of the cache rows that are read or written, and of the
float32 values that go in and out, each once; and the operations of the formula, a multiply-add as two, a root or an
exponential as one. What an executor does beside it (quantising inputs, softmax's maximum) is not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from penstock.executors.base import Held, Traced, kv_token_bytes
from penstock.models.program import Op, Program
from penstock.types import F32, Batch

OPERATIONS = {
    "norm": 4, "angles": 4, "rope": 3, "gated": 5, "activation": 4, "gate": 4, "softcap": 3, "add": 1, "scale": 1,
}  # fmt: skip
"""Of each element that comes out, of the kinds without weights that matter."""


@dataclass(frozen=True, slots=True)
class Cost:
    """``arithmetic``: what is multiplied, ``f32``, ``bf16`` or ``i8``."""

    bytes: float = 0.0
    flops: float = 0.0
    arithmetic: str = "f32"


class Costs:
    """Costs of the ops of one program's steps; give it every op of a step in order, for a mixture's choices show up
    in the router's output only."""

    def __init__(self, program: Program, held: Callable[[str], Held], kv_dtype: str) -> None:
        self.program, self.held = program, held
        self._attention_arithmetic = "bf16" if kv_dtype == "bf16" else "f32"
        self._kv_bytes = [kv_token_bytes(kv, kv_dtype) for kv in program.kv]
        self._values = {name: (value.width, value.rows == "logits") for name, value in program.values.items()}
        self._routers = {op.inputs[1]: int(op.attrs["top_k"]) for op in program.ops if op.kind == "moe"}
        self._chosen: dict[str, int] = {}

    def of(self, traced: Traced, batch: Batch) -> Cost:
        """The cost of ``traced`` in a step of ``batch``."""
        op = traced.op
        for name, value in traced.outputs.items():
            if name not in self._values:  # of a pass, as adapters add
                self._values[name] = (value.shape[1], value.shape[0] != batch.num_tokens)
            if name in self._routers:
                self._chosen[name] = _distinct(value, self._routers[name])
        moved = 4.0 * sum(self._rows(name, batch) * self._values[name][0] for name in (*op.inputs, *op.outputs))
        if op.kind == "linear":
            return self._linear(op, batch, moved)
        if op.kind in ("embed", "embed_positions"):
            table = op.weights[0]
            row = self.held(table).nbytes / self.program.weights[table].shape[0]
            return Cost(moved + row * batch.num_tokens)
        if op.kind == "moe":
            return self._moe(op, batch, moved)
        if op.kind == "select":
            return Cost(2 * 4.0 * len(batch.logits_rows) * self._values[op.inputs[0]][0])
        if op.kind == "attention":
            return self._attention(op, batch, moved)
        if op.kind == "store":
            return Cost(moved + batch.num_tokens * self._kv_bytes[int(op.attrs["layer"])])
        elements = sum(self._rows(name, batch) * self._values[name][0] for name in op.outputs)
        return Cost(moved, float(OPERATIONS.get(op.kind, 0) * elements))

    def _rows(self, name: str, batch: Batch) -> int:
        return len(batch.logits_rows) if self._values[name][1] else batch.num_tokens

    def _linear(self, op: Op, batch: Batch, moved: float) -> Cost:
        rows = self._rows(op.outputs[0], batch)
        if rows == 0:
            return Cost()
        size = sum(self.held(name).nbytes for name in op.weights if name)
        flops = 2.0 * rows * sum(prod(self.program.weights[name].shape) for name in op.weights[::2])
        return Cost(moved + size, flops, self.held(op.weights[0]).inputs)

    def _moe(self, op: Op, batch: Batch, moved: float) -> Cost:
        experts, top_k = int(op.attrs["experts"]), int(op.attrs["top_k"])
        chosen = self._chosen.get(op.inputs[1], min(experts, top_k * batch.num_tokens))
        size = sum(self.held(name).nbytes for name in op.weights) * chosen / experts
        one = sum(prod(self.program.weights[name].shape[1:]) for name in op.weights)
        return Cost(moved + size, 2.0 * batch.num_tokens * top_k * one, self.held(op.weights[0]).inputs)

    def _attention(self, op: Op, batch: Batch, moved: float) -> Cost:
        window = int(op.attrs["window"])
        queries, contexts = np.diff(batch.query_start).astype(np.int64), batch.context_lens.astype(np.int64)
        pairs = keys = 0
        for q, c in zip(queries.tolist(), contexts.tolist()):
            seen = np.arange(c - q + 1, c + 1)
            pairs += int((np.minimum(seen, window) if window else seen).sum())
            keys += min(c, window + q - 1) if window else c
        moved += keys * self._kv_bytes[int(op.attrs["layer"])]
        flops = 4.0 * pairs * int(op.attrs["heads"]) * int(op.attrs["head_dim"])
        return Cost(moved, flops, self._attention_arithmetic)


def _distinct(router: F32, top_k: int) -> int:
    """How many experts the rows of ``router`` choose between them."""
    if not len(router):
        return 0
    return len(np.unique(np.argpartition(-router, top_k - 1, axis=1)[:, :top_k]))
