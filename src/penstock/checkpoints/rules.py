"""From a program's weights to a file's tensors: a plan, complete before the first byte of data is read.

`plan` answers, for each weight of the program in order, which tensors make it and how. All that does not fit (names
missing, names left over, shapes) is told in one `WeightsError`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from penstock.checkpoints.names_error import WeightsError
from penstock.checkpoints.patterns import fill, pattern
from penstock.checkpoints.source import WeightSource
from penstock.checkpoints.ties import equal_numbers, first_present
from penstock.errors import CheckpointError
from penstock.models.program import Program, WeightSpec
from penstock.models.rules import IGNORED, Rule, Transpose, ignore
from penstock.quant.dense import DenseScheme
from penstock.quant.scheme import RowIndex, Scheme, SchemeFor

log = logging.getLogger(__name__)
DENSE = DenseScheme()
MAX_SPARE_BIAS = 16_000_000  # bytes
CACHE_SCALES = tuple(
    ignore(f"*.{name}_{what}")
    for name in ("k", "v", "q", "kv", "kv_cache", "prob", "output")
    for what in ("scale", "zero_point")
)
"""For a key-value cache of 8 bits, which quantised checkpoints may propose; ours has more."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One logical tensor of the file: ``parts`` maps the scheme's suffixes to the tensors that are there."""

    name: str
    spec: WeightSpec
    scheme: Scheme
    parts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How ``spec`` comes about: ``rows`` (None: all) of one tensor, or a stack of several."""

    spec: WeightSpec
    rule: Rule
    tensors: tuple[Tensor, ...]
    rows: RowIndex | None


def plan(source: WeightSource, program: Program, rules: Sequence[Rule], scheme_for: SchemeFor) -> list[Recipe]:
    """Recipes in the program's order. Raises `WeightsError` with everything that does not fit."""
    planner = _Planner(source, program, (*rules, *IGNORED, *CACHE_SCALES), scheme_for)
    recipes = [recipe for spec in program.weights.values() if (recipe := planner.recipe(spec)) is not None]
    left_over = planner.left_over()
    if planner.missing or left_over or planner.misshapen:
        raise WeightsError(planner.missing, left_over, planner.misshapen)
    return recipes


class _Planner:
    def __init__(self, source: WeightSource, program: Program, rules: Sequence[Rule], scheme_for: SchemeFor) -> None:
        self.source, self.program, self.rules, self.scheme_for = source, program, rules, scheme_for
        self.names = frozenset(source.names())
        self.tops = {name.split(".", 1)[0] for name in self.names}
        self.used: set[str] = set()
        self.missing: dict[str, str] = {}  # canonical name -> the original name looked for
        self.misshapen: dict[str, str] = {}  # original name -> what was expected and found

    def recipe(self, spec: WeightSpec) -> Recipe | None:
        wanted = ""
        for rule, values, which in self._rules_for(spec.name):
            tensors, absent = self._tensors(spec, rule, values)
            wanted = wanted or absent
            if not tensors:
                continue
            self.used.update(part for tensor in tensors for part in tensor.parts.values())
            if not absent:
                return Recipe(spec, rule, tensors, self._rows(rule, self._sizes(spec, rule, values), which))
            wanted = absent
            break
        self.missing[spec.name] = wanted or spec.name
        return None

    def _rules_for(self, target: str) -> Iterable[tuple[Rule, dict[str, str], int]]:
        """Rules that make ``target``, with their variables and the target's place; those tied to it come last."""
        for rule in self.rules:
            for which, text in enumerate(rule.targets):
                values = pattern(text, rule.source).match(target)
                if text and values is not None:
                    yield rule, values, which
        for rule in self.rules:
            if rule.tied_to == target and rule.targets[0] not in self.program.weights:
                yield rule, {}, 0

    def _tensors(self, spec: WeightSpec, rule: Rule, values: Mapping[str, str]) -> tuple[tuple[Tensor, ...], str]:
        """The tensors that ``rule`` asks for, and the first name that is not there (or "")."""
        sizes = self._sizes(spec, rule, values)
        shape = spec.shape[1:] if rule.stack else (sum(sizes), *spec.shape[1:])
        kind = "matrix" if spec.kind == "experts" and rule.stack else spec.kind
        found: list[Tensor] = []
        for index in range(spec.shape[0]) if rule.stack else (0,):
            names = pattern(rule.source).names({**values, rule.stack: str(index)} if rule.stack else values)
            for name in names:
                tensor, absent = self._tensor(name, WeightSpec(spec.name, shape, kind))
                if tensor is not None:
                    break
            else:
                return tuple(found), self._first_absent(names)
            found.append(tensor)
            self._check_shape(tensor, rule)
            if absent:
                return tuple(found), absent
        return tuple(found), ""

    def _tensor(self, name: str, spec: WeightSpec) -> tuple[Tensor | None, str]:
        """The tensor called ``name`` if any of its parts is there, and the first needed part that is not."""
        scheme = DENSE if spec.kind == "vector" else self.scheme_for(name)
        parts: dict[str, str] = {}
        absent = ""
        for suffix in scheme.parts(spec):
            part = suffix.removesuffix("?")
            full = name.removesuffix("weight") + part if name.endswith("weight") else name
            if full in self.names:
                parts[part] = full
            elif not suffix.endswith("?"):
                absent = absent or full
        return (Tensor(name, spec, scheme, parts), absent) if parts else (None, absent)

    def _first_absent(self, names: Sequence[str]) -> str:
        """Of the names that would do, the one most like what the file has: with its prefix."""
        return next((name for name in names if name.split(".", 1)[0] in self.tops), names[0])

    def _sizes(self, spec: WeightSpec, rule: Rule, values: Mapping[str, str]) -> tuple[int, ...]:
        """Rows of each target in the source."""
        if rule.sizes:
            return rule.sizes
        if len(rule.targets) == 1:
            return spec.shape[:1]
        return tuple(self.program.weights[fill(target, values)].shape[0] for target in rule.targets)

    def _rows(self, rule: Rule, sizes: Sequence[int], which: int) -> RowIndex | None:
        """The rows of target ``which``::

        groups=2, sizes q k v:  | q k v | q k v |
        """
        if len(sizes) == 1:
            return None
        if any(size % rule.groups for size in sizes):
            raise ValueError(f"rule for {rule.source}: rows {sizes} do not divide into {rule.groups} groups")
        pieces = [size // rule.groups for size in sizes]
        start, step = sum(pieces[:which]), sum(pieces)
        if rule.groups == 1:
            return slice(start, start + pieces[which])
        index = np.arange(rule.groups, dtype=np.int64)[:, None] * step + start
        return np.asarray((index + np.arange(pieces[which], dtype=np.int64)).reshape(-1))

    def _check_shape(self, tensor: Tensor, rule: Rule) -> None:
        """Plain tensors are checked here, before any data is read; other formats by their scheme."""
        if tensor.scheme.name != DENSE.name or "weight" not in tensor.parts:
            return
        expected = tensor.spec.shape
        if any(isinstance(transform, Transpose) for transform in rule.transforms) and len(expected) == 2:
            expected = expected[::-1]
        found = self.source.info(tensor.parts["weight"]).shape
        if found != expected:
            self.misshapen[tensor.name] = f"expected {list(expected)}, found {list(found)}"

    def left_over(self) -> list[str]:
        """Names that nothing uses and no rule lets go."""
        rest = set(self.names) - self.used - self._spare_heads()
        ignored = [pattern(rule.source).regex for rule in self.rules if not rule.targets]
        rest = {name for name in rest if not any(regex.fullmatch(name) for regex in ignored)}
        return sorted(name for name in rest if not self._zero_bias(name))

    def _spare_heads(self) -> set[str]:
        """Tensors of an output projection that the program ties to the embedding. Their numbers must be the same."""
        spare: set[str] = set()
        for rule in self.rules:
            if rule.tied_to not in self.program.weights or rule.targets[0] in self.program.weights:
                continue
            for name in pattern(rule.source).names({}):
                tensor, _ = self._tensor(name, self.program.weights[rule.tied_to])
                spare.update(tensor.parts.values() if tensor is not None else ())
            head = first_present(self.names, [rule])
            shared = first_present(self.names, [other for other in self.rules if other.targets == (rule.tied_to,)])
            if head and shared and not equal_numbers(self.source, head, shared):
                raise CheckpointError(
                    f"{self.source.info(head).file}: config.json ties {head} to {shared}, but they differ; set "
                    "tie_word_embeddings to false"
                )
        return spare

    def _zero_bias(self, name: str) -> bool:
        """A bias of zeros that the family does not have (GPTQ tools write them) changes nothing."""
        if not name.endswith(".bias") or self.source.info(name).nbytes > MAX_SPARE_BIAS:
            return False
        zero = not np.any(self.source.get(name))
        self.source.release(name)
        if zero:
            log.debug("left out %s: all zeros", name)
        return zero
