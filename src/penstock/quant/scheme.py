"""The seam between weight formats and everything else.

On disk a linear of shape [n, k] is one or several tensors (``weight``; ``qweight``, ``scales``, ``qzeros`` …).
A :class:`Scheme` says which, and turns them into :class:`WeightData`: the format's canonical arrays, in which axis 0 is
always the output row. So splitting a fused qkv or taking the rows of one shard is the same slice for every format, no
family knows a format, and an executor sees a format's name and its canonical arrays only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from penstock.models.program import WeightSpec

Array = NDArray[Any]
RowIndex = slice | NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class WeightData:
    """A weight in canonical form.

    ``arrays`` by role. Dense formats (``f32 f16 bf16``) have one, ``weight``, of the weight's own shape. Quantised ones
    add ``scales`` [n, groups], ``zeros`` … ; all have output rows first, except those in ``shared`` (``g_idx`` [k]).
    ``shape`` is the logical shape. ``params`` are format constants such as the group size.
    """

    format: str
    shape: tuple[int, ...]
    arrays: Mapping[str, Array]
    shared: frozenset[str] = frozenset()
    params: Mapping[str, int | float | str] = field(default_factory=dict)

    def rows(self, index: RowIndex) -> WeightData:
        """The same weight with only the output rows ``index`` (a slice, or an int64 array that may permute)."""
        arrays = {k: (v if k in self.shared else v[index]) for k, v in self.arrays.items()}
        n = next(v.shape[0] for k, v in arrays.items() if k not in self.shared)
        return replace(self, arrays=arrays, shape=(n, *self.shape[1:]))

    @property
    def nbytes(self) -> int:
        return sum(int(a.nbytes) for a in self.arrays.values())


class Scheme(Protocol):
    """How one weight is stored in a checkpoint."""

    @property
    def name(self) -> str: ...

    def parts(self, spec: WeightSpec) -> tuple[str, ...]:
        """Tensor suffixes that replace the trailing ``weight`` of the tensor's name, e.g. ``("qweight", "scales")``.

        A suffix that ends in ``?`` may be absent.
        """

    def build(self, spec: WeightSpec, tensors: Mapping[str, Array]) -> WeightData:
        """Canonical arrays from the tensors of :meth:`parts`. Raises ``CheckpointError`` naming what does not fit."""


WORDS = "words"
"""The role of 32-bit words of 4-bit codes as they are in a file, which an executor may pack as such."""


@runtime_checkable
class WordScheme(Scheme, Protocol):
    """A scheme whose codes are words that need not become rows first."""

    def words(self, spec: WeightSpec, tensors: Mapping[str, Array]) -> WeightData | None:
        """The weight :meth:`build` gives, as the tensors have it: ``words``, ``word_scales`` float16 [groups, n] and
        ``word_zeros`` (absent: all 8); ``params`` name the ``layout`` and what ``plus`` adds to a zero point. Output
        rows are not the first axis of these, so they cannot be taken apart. None where only :meth:`build` will do.
        Raises what that does."""


SchemeFor = Callable[[str], Scheme]
"""Which scheme stores the weight that the checkpoint calls by this (original) name."""
