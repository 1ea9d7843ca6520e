"""LoRA of parameters (PEFT's ``target_parameters``): the linears of all experts of a layer at once, as transformers 5
holds them.

    mlp.experts.base_layer.lora_A.weight    gate_up_proj [experts, 2 width, hidden]    nested where both are adapted,
    mlp.experts.lora_A.weight               down_proj    [experts, hidden, width]      the later one outermost

A is [experts * r, inputs], one expert behind the other; B is [outputs, r * experts], in which the expert changes
fastest. Before 0.19.1, PEFT took the inputs for the outputs: A is then what B is to be, and the other way round.
Read from peft 0.17 to 0.21, ``tuners/lora/layer.py``, ``ParamWrapper``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from penstock.checkpoints.source import shown
from penstock.errors import CheckpointError
from penstock.types import F32

HOLDER = "experts"
STACKS = ("gate_up_proj", "down_proj")
"""Of a module ``experts``, in the order that it declares them."""
PARAMETERS = (*STACKS, "weight")
NESTED = ".base_layer"
MAX_EXPERTS = 4096


def parameter_of(module: str, targets: Sequence[str]) -> tuple[str, str]:
    """The module that the factors called ``module`` belong to, and which of its parameters they change: one of
    ``targets``, which may be the ends of names. ``""`` for a module that is a linear itself."""
    owner = module
    while owner.endswith(NESTED):
        owner = owner.removesuffix(NESTED)
    depth = (len(module) - len(owner)) // len(NESTED)
    names = STACKS if owner.rpartition(".")[2] == HOLDER else ("weight",)
    wrapped = [name for name in names if any(f".{owner}.{name}".endswith(f".{target}") for target in targets)]
    return (owner, wrapped[-1 - depth]) if depth < len(wrapped) else (module, "")


def turns(version: object) -> bool:
    """Whether the PEFT of this version took inputs for outputs. Those before 0.18 do not say what they are."""
    found = re.match(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?", str(version or ""))
    return found is None or tuple(int(part or 0) for part in found.groups()) < (0, 19, 1)


def of_each_expert(owner: str, parameter: str, a: F32, b: F32, rank: int, turned: bool) -> dict[str, tuple[F32, F32]]:
    """A and B of each expert's linears, under the names that they have as modules: ``mlp.experts.3.gate_proj``."""
    experts, rest = divmod(a.shape[0], rank)
    if rest or not 1 <= experts <= MAX_EXPERTS:
        raise CheckpointError(
            f"{shown(owner)}.{parameter}: the factors {list(a.shape)} and {list(b.shape)} are not of rank {rank} for "
            "each expert"
        )
    inner = a.reshape(experts, rank, -1)
    outer = b.reshape(b.shape[0], rank, experts).transpose(2, 0, 1)  # [experts, outputs, rank]
    if turned:
        inner, outer = outer.transpose(0, 2, 1), inner.transpose(0, 2, 1)
    parts = ("gate_proj", "up_proj") if parameter == "gate_up_proj" else ("down_proj",)
    rows, rest = divmod(outer.shape[1], len(parts))
    if rest:
        raise CheckpointError(f"{shown(owner)}.{parameter}: {outer.shape[1]} outputs are no gate and up of equal size")
    return {
        f"{owner}.{e}.{part}": (
            np.ascontiguousarray(inner[e]), np.ascontiguousarray(outer[e, i * rows : (i + 1) * rows])
        )
        for e in range(experts)
        for i, part in enumerate(parts)
    }  # fmt: skip
