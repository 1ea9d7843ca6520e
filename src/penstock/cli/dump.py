"""``--dump-values``: what ops put out, by name, as a step computes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from penstock.errors import ConfigError, nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from penstock.executors.base import Traced
    from penstock.models.program import Program
    from penstock.types import Batch

FIRST = 4
"""Values that are shown, from the beginning of the last row."""


class Dump:
    """Shows one line a value whose name matches one of ``patterns``; a watcher (``penstock.cli.watch``).

    ``patterns`` as in a shell (``layers.0.*``). Raises ``ConfigError`` for one that matches nothing in ``program``.
    """

    def __init__(self, program: Program, patterns: Sequence[str], show: Callable[[str], None]) -> None:
        self._show = show
        self._steps = 0
        names = [name for op in program.ops for name in op.outputs]
        self._names: set[str] = set()
        for pattern in patterns:
            found = {name for name in names if fnmatchcase(name, pattern)}
            if not found:
                near = nearest(pattern, names) or f"; there are {names[0]}, {names[1]} … {names[-1]}, and '*' is all"
                raise ConfigError(f"--dump-values: no value of this model is called '{pattern}'{near}")
            self._names |= found
        self._width = max(len(name) for name in self._names)

    def step(self, batch: Batch) -> None:
        self._steps += 1
        self._show(f"step {self._steps}: {batch.num_tokens} tokens")

    def op(self, traced: Traced) -> None:
        for name, value in traced.outputs.items():
            if name in self._names:
                self._show(f"  {name:<{self._width}}  {traced.op.kind:<10} {_described(value)}")


def _described(value: NDArray[np.float32]) -> str:
    """``[2, 64]  min -1.2  max 3.4  mean 0.01  0.5 0.6 0.7 0.8 …``; what is not finite is counted apart."""
    import numpy as np

    shape = f"[{', '.join(map(str, value.shape))}]"
    if value.size == 0:
        return shape
    finite = value[np.isfinite(value)].astype(np.float64)
    figures = "".join(
        f"  {name} {float(of(finite)):<10.4g}" for name, of in (("min", np.min), ("max", np.max), ("mean", np.mean))
    ) if finite.size else ""  # fmt: skip
    odd = value.size - finite.size
    last = value[-1].reshape(-1)
    first = " ".join(f"{x:.4g}" for x in last[:FIRST])
    return f"{shape:<12}{figures}{f'  {odd} not finite' if odd else ''}  {first}{' …' if last.size > FIRST else ''}"
