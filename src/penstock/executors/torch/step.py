"""What the ops of one step see: weights, constants, the batch as tensors, the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from penstock.models.program import KVSpec
from penstock.types import Batch

KV_TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "i8": torch.int8}


Factors = tuple[Tensor, Tensor, float]
"""A, B and scale of one weight's adapter."""


class CacheRows:
    """Keys or values of one layer, ``[slots, kv_heads, head_dim]``; slot = block * block_size + offset. Of ``i8``, a
    slot's head has a scale, a 127th of its largest magnitude."""

    def __init__(self, spec: KVSpec, slots: int, kv_dtype: str) -> None:
        self._rows = torch.empty((slots, spec.kv_heads, spec.head_dim), dtype=KV_TYPES[kv_dtype])
        self._scales = torch.empty((slots, spec.kv_heads, 1)) if kv_dtype == "i8" else None

    def write(self, slots: Tensor, rows: Tensor) -> None:
        """``rows``: [P, kv_heads * head_dim] or [P, kv_heads, head_dim], in float32."""
        rows = rows.view(-1, *self._rows.shape[1:])
        if self._scales is not None:
            most = rows.abs().amax(dim=-1, keepdim=True)
            self._scales[slots] = most / 127
            rows = (rows * torch.where(most > 0, 127 / most, 0.0)).round()
        self._rows[slots] = rows.to(self._rows.dtype)

    def read(self, slots: Tensor) -> Tensor:
        """[P, kv_heads, head_dim] in float32."""
        rows = self._rows[slots].float()
        return rows if self._scales is None else rows * self._scales[slots]

    def copy(self, source: slice, target: slice) -> None:
        for part in (self._rows, self._scales):
            if part is not None:
                part[target] = part[source]

    @property
    def nbytes(self) -> int:
        return int(self._rows.nbytes + (0 if self._scales is None else self._scales.nbytes))


class Cache:
    """One layer's keys and values."""

    def __init__(self, spec: KVSpec, slots: int, kv_dtype: str) -> None:
        self.keys = CacheRows(spec, slots, kv_dtype)
        self.values = CacheRows(spec, slots, kv_dtype)

    def copy_block(self, source: int, target: int, block_size: int) -> None:
        a, b = source * block_size, target * block_size
        for rows in (self.keys, self.values):
            rows.copy(slice(a, a + block_size), slice(b, b + block_size))

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes


@dataclass(frozen=True, slots=True)
class Sequence:
    """One sequence's share of the step: its tokens ``first:last``, its cache rows' slots, its mask's boundary."""

    first: int
    last: int
    slots: Tensor
    bidirectional: int


@dataclass(frozen=True, slots=True)
class Step:
    """Read-only during a step, but for the rows that ``store`` writes into ``caches``."""

    weights: Mapping[str, Tensor]
    constants: Mapping[str, Tensor]
    caches: tuple[Cache, ...]
    sequences: tuple[Sequence, ...]
    positions: Tensor
    slots: Tensor
    prompt_lens: Tensor
    logits_rows: Tensor
    adapters: Mapping[int, Mapping[str, Factors]] = field(default_factory=dict)
    adapter_of: Tensor | None = None  # each token's adapter slot
    embeds: Tensor | None = None

    def weight(self, name: str) -> Tensor | None:
        return self.weights[name] if name else None


def make_step(batch: Batch, block_size: int, **fixed: Any) -> Step:
    """The batch as tensors. ``prompt_lens`` is spread over tokens."""
    bounds = batch.query_start
    sequences = []
    for s in range(batch.num_seqs):
        length = int(batch.context_lens[s])
        rows = np.arange(length)
        slots = batch.block_tables[s].astype(np.int64)[rows // block_size] * block_size + rows % block_size
        boundary = 0 if batch.bidirectional is None else int(batch.bidirectional[s])
        sequences.append(Sequence(int(bounds[s]), int(bounds[s + 1]), torch.from_numpy(slots), boundary))
    return Step(
        sequences=tuple(sequences),
        positions=_tensor(batch.positions),
        slots=_tensor(batch.slots),
        prompt_lens=_tensor(np.repeat(batch.prompt_lens, np.diff(bounds))),
        logits_rows=_tensor(batch.logits_rows),
        adapter_of=None if batch.adapters is None else _tensor(np.repeat(batch.adapters, np.diff(bounds))),
        embeds=None if batch.embeds is None else torch.from_numpy(batch.embeds),
        **fixed,
    )


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(array.astype(np.int64))
