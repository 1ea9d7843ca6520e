"""The native executor's adapters: factors in the core by slot, and the plans that have a place for them.

A step without adapters never comes here. The plans are made for the union of what all adapters change; they stay valid
when one goes, and are made anew when one comes that changes more, or has a larger rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from penstock.errors import ExecutionError
from penstock.executors.base import Adapter
from penstock.executors.native.lower import Lora, Lowered
from penstock.models.passes.adapters import attach_adapters
from penstock.models.program import Program

Lower = Callable[[Program, bool, Mapping[str, Lora]], Lowered]
"""(program, fused or not, its targets) to a plan."""


class NativeAdapters:
    """``core`` holds the factors; ``lower`` makes plans of ``program`` with the targets' ops in it."""

    def __init__(self, core: Any, program: Program, lower: Lower) -> None:
        self.slots: dict[int, dict[str, int]] = {}  # slot -> rank by target
        self._core, self._program, self._lower = core, program, lower
        self._numbers: dict[str, int] = {}
        self._targets: dict[str, Lora] = {}
        self._plans: dict[bool, Lowered] = {}

    def load(self, slot: int, tensors: Adapter) -> None:
        """Pack factors that have been checked. Any that the slot held go first."""
        self.unload(slot)
        try:
            for name, (a, b, scale) in tensors.items():
                self._core.set_lora(slot, self._numbers.setdefault(name, len(self._numbers)), a, b, scale)
        except BaseException:
            self._core.clear_adapter(slot)
            raise
        self.slots[slot] = {name: int(a.shape[0]) for name, (a, _, _) in tensors.items()}
        wanted = self._wanted()
        if any(name not in self._targets or self._targets[name].rank < t.rank for name, t in wanted.items()):
            self._targets, self._plans = wanted, {}

    def unload(self, slot: int) -> None:
        if self.slots.pop(slot, None) is not None:
            self._core.clear_adapter(slot)
        if not self.slots:
            self._targets, self._plans = {}, {}

    def plan(self, fused: bool) -> Lowered:
        """The program with a ``lora`` behind all that any adapter changes."""
        if not self._targets:
            raise ExecutionError("a step names adapters, but none are loaded")
        if fused not in self._plans:
            program = attach_adapters(self._program, self._targets)
            self._plans[fused] = self._lower(program, fused, self._targets)
        return self._plans[fused]

    @property
    def workspace(self) -> int:
        """Bytes of the plans' activations."""
        return sum(int(low.plan.workspace_bytes) for low in self._plans.values())

    def _wanted(self) -> dict[str, Lora]:
        ranks: dict[str, int] = {}
        for slot in self.slots.values():
            for name, rank in slot.items():
                ranks[name] = max(rank, ranks.get(name, 0))
        return {name: Lora(self._numbers[name], rank) for name, rank in ranks.items()}
