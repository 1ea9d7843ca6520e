"""Weights as a stream: read, hand over, let go.

While the consumer holds one weight, only the pages of that weight's tensors are in this process; they are released
while the next is read. A consumer that copies (packs) what it gets therefore needs the packed weights plus two tensors
(three for a stack of experts being gathered), never two copies of the checkpoint. A consumer that keeps the views reads
their pages in again when it uses them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from penstock.checkpoints.folder import Checkpoint
from penstock.checkpoints.progress import Progress
from penstock.checkpoints.rules import DENSE, Recipe, Tensor, plan
from penstock.checkpoints.source import Array, WeightSource
from penstock.errors import CheckpointError, UnsupportedError
from penstock.models.program import Program, WeightSpec
from penstock.models.rules import Permute, Rule, Transform, Transpose
from penstock.quant.detect import detect
from penstock.quant.formats import FORMATS, check, unsaid
from penstock.quant.onthefly import Convert
from penstock.quant.scheme import Scheme, SchemeFor, WeightData, WordScheme


def dense(name: str) -> Scheme:
    """The scheme of every weight in a checkpoint of plain numbers."""
    return DENSE


def stream_weights(
    checkpoint: Checkpoint,
    program: Program,
    rules: Sequence[Rule],
    scheme_for: SchemeFor | None = None,
    progress: Progress | None = None,
    convert: Convert | None = None,
    words: bool = False,
) -> Iterator[tuple[WeightSpec, WeightData]]:
    """Each weight of ``program``, in its order, in the format that its scheme gives.

    ``scheme_for`` and ``convert`` come from `quant.detect`, which is asked what the configuration says when the first
    is absent. The arrays are valid until the next weight is asked for, or as long as ``checkpoint`` is open; most are
    views of the file. Names and shapes are checked at once, before this returns: `WeightsError` tells all that does
    not fit. ``progress`` is called with (bytes read, bytes in all). ``words``: 4-bit codes may come as the file's words
    (`quant.scheme.WordScheme`) where a weight is one whole tensor.
    """
    if checkpoint.weights is None:
        raise CheckpointError(f"{checkpoint.path}: opened without its weights; open it with weights=True")
    scheme_for = scheme_for or detect(checkpoint.config, checkpoint.weights).scheme_for
    recipes = plan(checkpoint.weights, program, rules, scheme_for)
    return _Loader(checkpoint.weights, recipes, progress, convert, words).stream()


class _Loader:
    def __init__(
        self,
        source: WeightSource,
        recipes: Sequence[Recipe],
        progress: Progress | None,
        convert: Convert | None,
        words: bool,
    ) -> None:
        self.words = words
        self.source, self.recipes, self.progress, self.convert = source, recipes, progress, convert
        self.uses = Counter(tensor.name for recipe in recipes for tensor in recipe.tensors)
        tensors = {tensor.name: tensor for recipe in recipes for tensor in recipe.tensors}
        self.sizes = {name: sum(source.info(p).nbytes for p in t.parts.values()) for name, t in tensors.items()}
        self.done, self.total = 0, sum(self.sizes.values())
        self.shared: dict[str, WeightData] = {}  # built once for several targets

    def stream(self) -> Iterator[tuple[WeightSpec, WeightData]]:
        # Letting go of pages takes a tenth of the time that packing them does, so it is done behind the next weight.
        behind: Future[None] | None = None
        with ThreadPoolExecutor(1, "penstock-release") as pool:
            for recipe in self.recipes:
                yield self._weight(recipe)
                for tensor in recipe.tensors:
                    self._finish(tensor)
                if behind is not None:
                    behind.result()
                behind = pool.submit(self._release, recipe.tensors)
            if behind is not None:
                behind.result()

    def _weight(self, recipe: Recipe) -> tuple[WeightSpec, WeightData]:
        data = self._stacked(recipe) if recipe.rule.stack else self._one(recipe)
        if recipe.rows is not None:
            data = data.rows(recipe.rows)
        if data.shape != recipe.spec.shape:
            raise CheckpointError(
                f"{recipe.tensors[0].name} as {data.format}: expected {list(recipe.spec.shape)}, "
                f"found {list(data.shape)}; check that config.json and weights belong together"
            )
        return recipe.spec, data if self.convert is None else self.convert(recipe.spec, data)

    def _one(self, recipe: Recipe) -> WeightData:
        """The tensor of a recipe without a stack: as words if it is whole and they are wanted."""
        tensor, scheme = recipe.tensors[0], recipe.tensors[0].scheme
        whole = recipe.rows is None and not recipe.rule.transforms and self.uses[tensor.name] == 1
        if self.words and whole and isinstance(scheme, WordScheme):
            with _naming(tensor):
                data = scheme.words(tensor.spec, {part: self.source.get(name) for part, name in tensor.parts.items()})
            if data is not None:
                return data
        return self._tensor(tensor, recipe.rule)

    def _tensor(self, tensor: Tensor, rule: Rule) -> WeightData:
        """The whole source tensor, transformed; shared by all targets of a split."""
        if tensor.name in self.shared:
            return self.shared[tensor.name]
        data = _transformed(
            tensor, {part: self.source.get(name) for part, name in tensor.parts.items()}, rule.transforms
        )
        if self.uses[tensor.name] > 1:
            self.shared[tensor.name] = data
        return data

    def _stacked(self, recipe: Recipe) -> WeightData:
        """Tensors gathered along a new axis 0, each released as soon as it is copied."""
        arrays: dict[str, Array] = {}
        count = len(recipe.tensors)
        for index, tensor in enumerate(recipe.tensors):
            data = self._tensor(tensor, recipe.rule)
            if index == 0:
                first = data
            if _kind(data) != _kind(first):
                raise UnsupportedError(
                    f"{tensor.name} is {data.format} {list(data.shape)} and {recipe.tensors[0].name} is {first.format} "
                    f"{list(first.shape)}: experts of one layer must be stored alike; "
                    "use a checkpoint in which they are"
                )
            for role, array in data.arrays.items():
                if role not in arrays:
                    arrays[role] = np.empty((count, *array.shape), array.dtype)
                    arrays[role][:index] = unsaid(first, role) if index else 0
            for role, stack in arrays.items():
                stack[index] = data.arrays[role] if role in data.arrays else unsaid(data, role)
            self._release([tensor])
        return replace(first, arrays=arrays, shape=(count, *first.shape), shared=frozenset({"g_idx"} & arrays.keys()))

    def _finish(self, tensor: Tensor) -> None:
        self.uses[tensor.name] -= 1
        if self.uses[tensor.name] <= 0:
            self.shared.pop(tensor.name, None)
            self.done += self.sizes[tensor.name]
            if self.progress is not None:
                self.progress(self.done, self.total)

    def _release(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            for name in tensor.parts.values():
                self.source.release(name)


@contextmanager
def _naming(tensor: Tensor) -> Iterator[None]:
    """What a scheme refuses, with the tensor's name."""
    try:
        yield
    except CheckpointError as error:
        why = "the checkpoint is damaged, or its config.json is another's"
        raise type(error)(f"{tensor.name}: {error}; {why}") from error


def _kind(data: WeightData) -> tuple[object, ...]:
    """What experts must have in common."""
    return data.format, data.shape, dict(data.params)


def _transformed(tensor: Tensor, arrays: Mapping[str, Array], transforms: Sequence[Transform]) -> WeightData:
    plain = tensor.scheme.name == DENSE.name
    for transform in transforms:
        if isinstance(transform, Transpose) and plain and arrays["weight"].ndim == 2:
            arrays = {"weight": arrays["weight"].T}
    with _naming(tensor):
        data = tensor.scheme.build(tensor.spec, arrays)
        if not plain and data.format in FORMATS:
            check(data, tensor.scheme.name)
    for transform in transforms:
        if isinstance(transform, Permute):
            data = data.rows(row_order(data.shape[0], transform))
        elif not isinstance(transform, Transpose):
            if not plain:
                raise UnsupportedError(
                    f"{tensor.name}: stored as {data.format}, but this family normalises its rows at load; "
                    "use a checkpoint that keeps this tensor in float16 or bfloat16"
                )
            data = replace(data, format="f32", arrays={"weight": _unit_rows(data.arrays["weight"])})
    return data


def row_order(rows: int, permute: Permute) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The file's row for each row wanted."""
    if rows % (2 * permute.heads):
        raise ValueError(f"{rows} rows are not {permute.heads} heads of an even width")
    size = rows // permute.heads
    half = (2, size // 2) if permute.to == "pairs" else (size // 2, 2)
    index = np.arange(rows, dtype=np.int64).reshape(permute.heads, *half)
    return index.swapaxes(1, 2).reshape(-1)


def _unit_rows(array: Array) -> Array:
    """Rows of length 1 in float32: what the model would compute, not rounded once more. 1024 rows at a time."""
    out = np.empty(array.shape, np.float32)
    for start in range(0, array.shape[0], 1024):
        rows = array[start : start + 1024].astype(np.float32)
        length = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
        np.divide(rows, np.maximum(length, 1e-12), out=out[start : start + 1024])
    return out
