"""GGUF tensors: ggml blocks and plain numbers, each tensor saying its own type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.errors import CheckpointError
from penstock.models.program import WeightSpec
from penstock.quant.dense import DenseScheme
from penstock.quant.formats import BLOCKS
from penstock.quant.scheme import Array, WeightData

DENSE = DenseScheme()


@dataclass(frozen=True, slots=True)
class BlockScheme:
    """``block_type``: a format of `BLOCKS`, or a dense one. The tensor ``weight`` is then u8 [..., bytes of a row]."""

    block_type: str
    name: str = "gguf"

    def parts(self, spec: WeightSpec) -> tuple[str, ...]:
        return ("weight",)

    def build(self, spec: WeightSpec, tensors: Mapping[str, Array]) -> WeightData:
        array = tensors["weight"]
        if self.block_type not in BLOCKS:
            if array.ndim == 1 and spec.shape == (1, *array.shape):  # a gate of one output is stored as a vector
                array = array[None]
            if array.shape != spec.shape:
                raise CheckpointError(f"must be {list(spec.shape)}, found {list(array.shape)}")
            return DENSE.build(spec, {"weight": array})
        block = BLOCKS[self.block_type]
        shape = (*array.shape[:-1], array.shape[-1] // block.nbytes * block.elements)
        if shape != spec.shape:
            raise CheckpointError(f"must be {list(spec.shape)}, found {list(shape)} as {self.block_type}")
        return WeightData(self.block_type, shape, {"blocks": array})
