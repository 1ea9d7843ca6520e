"""Named adapters of a loaded model: LoRA in the executor's slots, prefixes in pinned blocks of the KV cache.

One name space for all kinds: a request says ``adapter="name"`` and :meth:`Adapters.options` turns that into what
:meth:`Engine.add` takes. Not thread-safe: everything is called by whoever owns the engine, between two steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from penstock.errors import ConfigError, OverloadedError, RequestError, nearest
from penstock.types import F32, I32, Batch

if TYPE_CHECKING:
    from penstock.checkpoints.adapters import AdapterData, LoraAdapter, PrefixAdapter, PromptAdapter
    from penstock.config import AdapterConfig
    from penstock.engine.engine import Engine
    from penstock.engine.sequence import Prefix, Request
    from penstock.models.architecture import Architecture
    from penstock.models.rules import Rule

Kind = Literal["lora", "prefix", "prompt"]
MAX_NAME = 256


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """A loaded adapter. ``rank`` of a LoRA, ``rows`` of cache that a prefix takes; 0 where it has none."""

    name: str
    path: str
    kind: Kind
    rank: int = 0
    rows: int = 0
    slot: int = 0
    serial: int = 0


class Adapters:
    """The adapters of one model. ``rules`` name the family's tensors in original checkpoints."""

    def __init__(
        self, engine: Engine, architecture: Architecture, rules: tuple[Rule, ...], config: AdapterConfig
    ) -> None:
        self.engine, self.config = engine, config
        self._architecture, self._rules = architecture, rules
        self._loaded: dict[str, AdapterInfo] = {}
        self._leaving: set[int] = set()  # slots whose name is gone, but not their last request
        self._serial = 0
        engine.on_forget = self._ended

    def names(self) -> list[str]:
        """The names that requests may give, in the order they were loaded."""
        return list(self._loaded)

    def info(self, name: str) -> AdapterInfo:
        """What is loaded under ``name``. Raises ``RequestError`` with the nearest name if nothing is."""
        if name not in self._loaded:
            known = f"; loaded: {', '.join(list(self._loaded)[:8])}" if self._loaded else "; none is loaded"
            raise RequestError(
                f"no adapter '{str(name)[:MAX_NAME]}'{nearest(str(name), self._loaded) or known}", "adapter"
            )
        return self._loaded[name]

    def load(self, name: str, path: str | Path) -> AdapterInfo:
        """Read an adapter, check that it fits the model, and make it known as ``name``.

        Raises ``RequestError`` for a name that is taken or no name, ``ConfigError`` for a bound of the configuration,
        ``OverloadedError`` where slots or blocks are taken at the moment, ``CheckpointError`` for what the files hold.
        """
        from penstock.checkpoints.adapters import Base, LoraAdapter, PrefixAdapter, open_adapter

        if not isinstance(name, str) or not name or len(name) > MAX_NAME or not name.isprintable():
            raise RequestError(f"an adapter's name must be 1 to {MAX_NAME} printable characters", "name")
        if name in self._loaded:
            raise RequestError(f"adapter '{name}' is loaded already: unload it first", "name")
        base = Base(self.engine.executor.program, self._rules)
        data: AdapterData = open_adapter(path, base, self.config.max_lora_rank)
        self._serial += 1
        if isinstance(data, LoraAdapter):
            info = self._load_lora(name, path, data)
        elif isinstance(data, PrefixAdapter):
            info = self._load_prefix(name, path, data)
        else:
            info = self._load_prompt(name, path, data)
        self._loaded[name] = info
        return info

    def unload(self, name: str) -> None:
        """Forget ``name``. Requests under way that use it finish with it; then its memory is freed."""
        info = self.info(name)
        del self._loaded[name]
        if info.kind == "lora":
            self._leaving.add(info.slot)
            self._free(info.slot)
        else:
            self.engine.remove_prefix(_prefix_name(info))

    def options(self, name: str | None) -> dict[str, Any]:
        """What :meth:`Engine.add` is to be given for a request with this adapter."""
        if name is None:
            return {}
        info = self.info(name)
        if info.kind == "lora":
            return {"adapter": info.slot, "adapter_serial": info.serial}
        return {"prefix": _prefix_name(info)}

    def _ended(self, request: Request) -> None:
        if request.adapter in self._leaving:
            self._free(request.adapter)

    def _free(self, slot: int) -> None:
        """Empty a slot whose name is gone, once no request uses it."""
        if all(request.adapter != slot for request in self.engine.requests.values()):
            self._leaving.discard(slot)
            self.engine.executor.unload_adapter(slot)

    def _load_lora(self, name: str, path: str | Path, data: LoraAdapter) -> AdapterInfo:
        if not self.config.enable_lora:
            raise ConfigError(f"adapter '{name}' is a LoRA, and enable_lora is off")
        taken = {info.slot for info in self._loaded.values() if info.slot} | self._leaving
        slot = next((s for s in range(1, self.config.max_loras + 1) if s not in taken), 0)
        if not slot:
            raise OverloadedError(
                f"{self.config.max_loras} LoRA adapters are loaded (max_loras): unload one, or raise max_loras"
            )
        self.engine.executor.load_adapter(slot, data.factors)
        return AdapterInfo(name, str(path), "lora", rank=data.rank, slot=slot, serial=self._serial)

    def _load_prefix(self, name: str, path: str | Path, data: PrefixAdapter) -> AdapterInfo:
        shifts = self._architecture.prefix_shifts if data.shifts is None else data.shifts
        info = AdapterInfo(name, str(path), "prefix", rows=data.rows, serial=self._serial)
        prefix = self._pin(info, shifts)
        try:
            slots = _slots(prefix, self.engine.block_size)
            for layer, (keys, values) in enumerate(data.layers):
                self.engine.executor.write_kv(layer, slots, keys, values)
        except BaseException:
            self.engine.remove_prefix(prefix.name)
            raise
        return info

    def _load_prompt(self, name: str, path: str | Path, data: PromptAdapter) -> AdapterInfo:
        if self._architecture.position_tokens is not None:
            raise ConfigError(
                f"adapter '{name}': embeddings before a {self._architecture.family} prompt have no positions"
            )
        info = AdapterInfo(name, str(path), "prompt", rows=len(data.embeds), serial=self._serial)
        prefix = self._pin(info, shifts=True)
        try:
            step = self.engine.executor.limits.max_tokens
            for start in range(0, prefix.rows, step):
                end = min(start + step, prefix.rows)
                self.engine.executor.run(self._prompt_batch(prefix, data.embeds, start, end))
        except BaseException:
            self.engine.remove_prefix(prefix.name)
            raise
        return info

    def _pin(self, info: AdapterInfo, shifts: bool) -> Prefix:
        """Blocks for a prefix, within the share of the cache that prefixes may have."""
        engine, size = self.engine, self.engine.block_size
        most = int(engine.pool.total * self.config.max_prefix_share)
        held, needed = sum(-(-each.rows // size) for each in self._loaded.values()), -(-info.rows // size)
        if held + needed > most:
            raise ConfigError(
                f"adapter '{info.name}' needs {needed} KV blocks, and prefixes hold {held} of at most {most}: "
                "raise kv_cache_memory or max_prefix_share"
            )
        if info.rows >= engine.facts.max_model_len:
            raise ConfigError(
                f"adapter '{info.name}' has {info.rows} rows, but the context is {engine.facts.max_model_len}"
            )
        return engine.add_prefix(_prefix_name(info), info.rows, shifts)

    def _prompt_batch(self, prefix: Prefix, embeds: F32, start: int, end: int) -> Batch:
        """A step that computes rows ``start:end`` of the prefix from embeddings, and wants no logits."""
        count = end - start

        def one(value: int) -> I32:
            return np.array([value], np.int32)

        return Batch(
            token_ids=np.zeros(count, np.int32),
            positions=np.tile(np.arange(start, end, dtype=np.int32), (self._architecture.position_channels, 1)),
            slots=_slots(prefix, self.engine.block_size)[start:end],
            query_start=np.array([0, count], np.int32),
            context_lens=one(end),
            block_tables=np.array([prefix.blocks], np.int32),
            prompt_lens=one(prefix.rows),
            logits_rows=np.zeros(0, np.int32),
            embeds=np.ascontiguousarray(embeds[start:end]),
        )


def _prefix_name(info: AdapterInfo) -> str:
    """The engine's name for the prefix: one that is never given twice."""
    return f"{info.serial}:{info.name}"


def _slots(prefix: Prefix, block_size: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Where each row of the prefix lies in the cache."""
    rows = np.arange(prefix.rows, dtype=np.int64)
    return np.asarray(prefix.blocks, np.int64)[rows // block_size] * block_size + rows % block_size


def load_all(adapters: Adapters, wanted: Mapping[str, str] | None) -> None:
    """Load those that the configuration names."""
    for name, path in (wanted or {}).items():
        adapters.load(name, path)
