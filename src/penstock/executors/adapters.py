"""What every executor checks of adapters, prefixes and given embeddings before it touches anything."""

from __future__ import annotations

from collections.abc import Container

import numpy as np

from penstock.errors import ExecutionError
from penstock.executors.base import Adapter, Limits
from penstock.models.passes.adapters import linear_shapes
from penstock.models.program import Program
from penstock.types import F32, I64, Batch


def check_adapter(program: Program, slot: int, tensors: Adapter) -> None:
    """Raise ``ExecutionError`` unless every target is a linear's weight and the factors fit it."""
    if slot < 1:
        raise ExecutionError(f"adapter slot {slot}: slots count from 1, 0 is no adapter")
    shapes = linear_shapes(program)
    for name, (a, b, _) in tensors.items():
        if name not in shapes:
            raise ExecutionError(f"adapter: no linear has the weight '{name}'")
        n, k = shapes[name]
        if a.dtype != np.float32 or b.dtype != np.float32 or a.ndim != 2 or a.shape[0] < 1:
            raise ExecutionError(f"adapter: the factors of '{name}' must be float32 matrices")
        if a.shape[1] != k or b.shape != (n, a.shape[0]):
            raise ExecutionError(f"adapter: factors {list(a.shape)} and {list(b.shape)} do not fit '{name}' [{n}, {k}]")


def check_adapters(batch: Batch, loaded: Container[int]) -> None:
    """Raise ``ExecutionError`` if the batch names an adapter slot that is empty."""
    if batch.adapters is None:
        return
    if batch.adapters.shape != (batch.num_seqs,):
        raise ExecutionError(f"adapters: {len(batch.adapters)} entries for {batch.num_seqs} sequences")
    for slot in set(batch.adapters.tolist()) - {0}:
        if slot not in loaded:
            raise ExecutionError(f"a step names adapter slot {slot}, which is empty")


def check_embeds(program: Program, batch: Batch) -> None:
    """Raise ``ExecutionError`` unless given embeddings are one float32 row a token, as wide as the embedding."""
    if batch.embeds is None:
        return
    width = program.weights["embed.weight"].shape[1]
    if batch.embeds.dtype != np.float32 or batch.embeds.shape != (batch.num_tokens, width):
        raise ExecutionError(
            f"embeds must be float32 [{batch.num_tokens}, {width}], not {batch.embeds.dtype} {list(batch.embeds.shape)}"
        )


def check_kv(program: Program, limits: Limits, layer: int, slots: I64, k: F32, v: F32) -> None:
    """Raise ``ExecutionError`` unless the rows fit the layer's cache and the slots lie in it."""
    if not 0 <= layer < len(program.kv):
        raise ExecutionError(f"cache layer {layer} does not exist; there are {len(program.kv)}")
    width = program.kv[layer].kv_heads * program.kv[layer].head_dim
    for rows in (k, v):
        if rows.dtype != np.float32 or rows.shape != (len(slots), width):
            raise ExecutionError(f"cache rows must be float32 [{len(slots)}, {width}], not {list(rows.shape)}")
    if len(slots) and not 0 <= slots.min() <= slots.max() < limits.num_blocks * limits.block_size:
        raise ExecutionError("cache rows are to be written outside the cache")
