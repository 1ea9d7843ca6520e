"""From a PEFT adapter's modules to the program's weights, by the family's own RULES: no family knows of LoRA.

A module ``model.layers.0.self_attn.qkv_proj`` is the linear whose weight the rules read from that name with ``.weight``
behind it. What they do to the rows of that weight is done to the rows of B; A is shared by all pieces:

    split(qkv -> q, k, v)      q: A, B[rows of q]    k: A, B[rows of k]    v: A, B[rows of v]

A module of an expert is the linear of that expert in the stack.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from penstock.checkpoints.adapters import Base, LoraAdapter
from penstock.checkpoints.load import row_order
from penstock.checkpoints.lora import LoraFile, LoraModule
from penstock.checkpoints.patterns import fill, pattern
from penstock.checkpoints.source import shown, some
from penstock.errors import CheckpointError, UnsupportedError
from penstock.models.passes.adapters import expert_target, linear_shapes
from penstock.models.program import Program
from penstock.models.rules import Permute, Rule, UnitRows
from penstock.types import F32

Factors = tuple[F32, F32, float]


def live(file: LoraFile, base: Base) -> LoraAdapter:
    """The adapter as factors of the program's weights. Raises ``UnsupportedError`` for what only a merge can do."""
    if file.saved:
        raise UnsupportedError(
            f"modules_to_save ({some(list(file.saved), 4)}) replaces whole weights, which is not done live: merge the "
            "adapter into its base (penstock merge) and serve the result"
        )
    shapes = linear_shapes(base.program)
    factors: dict[str, Factors] = {}
    for name, module in file.modules.items():
        if module.magnitude is not None:
            raise UnsupportedError(
                f"{shown(name)}: DoRA is not applied live: merge the adapter into its base (penstock merge)"
            )
        for target, found in _targets(name, module, base).items():
            if target not in shapes:
                raise UnsupportedError(f"{shown(name)}: LoRA of embeddings is not supported; merge the adapter")
            n, k = shapes[target]
            a, b, _ = found
            if a.shape[1] != k or b.shape[0] != n:
                raise CheckpointError(
                    f"{shown(name)}: factors for a linear [{b.shape[0]}, {a.shape[1]}], but the model's is [{n}, {k}]: "
                    "the adapter belongs to another base model"
                )
            if target in factors:
                raise CheckpointError(f"{shown(name)}: the factors of '{target}' come twice")
            factors[target] = found
    return LoraAdapter(factors, max(module.a.shape[0] for module in file.modules.values()))


def _targets(name: str, module: LoraModule, base: Base) -> dict[str, Factors]:
    """The weights that the module's linear becomes, each with its rows of B."""
    for rule in base.rules:
        values = pattern(rule.source).match(f"{name}.weight")
        if values is None or not rule.targets:
            continue
        targets = _filled(rule, values, base.program)
        if targets is None:
            continue
        if any(isinstance(transform, UnitRows) for transform in rule.transforms):
            raise UnsupportedError(f"{shown(name)}: this model normalises the weight's rows, so LoRA cannot be added")
        found = _split(rule, targets, module, base.program, name)
        return _of_expert(found, int(values[rule.stack]), module, base.program, name) if rule.stack else found
    raise CheckpointError(
        f"the adapter changes {shown(name)}, which this model does not have: it belongs to another base model"
    )


def _filled(rule: Rule, values: Mapping[str, str], program: Program) -> list[str] | None:
    """The rule's targets by canonical name ("" where rows are dropped); None where the program has none such."""
    targets = [fill(target, values) if target else "" for target in rule.targets]
    if rule.tied_to and targets[0] not in program.weights:
        targets = [rule.tied_to]
    return targets if all(not target or target in program.weights for target in targets) else None


def _of_expert(
    found: dict[str, Factors], expert: int, module: LoraModule, program: Program, name: str
) -> dict[str, Factors]:
    """The same for one expert of each stack."""
    for target in found:
        count = program.weights[target].shape[0]
        if expert >= count or module.experts not in (0, count):
            raise CheckpointError(
                f"{shown(name)}: this model has {count} experts, 0 to {count - 1}: the adapter belongs to another base "
                "model"
            )
    return {expert_target(target, expert): factors for target, factors in found.items()}


def _split(rule: Rule, targets: list[str], module: LoraModule, program: Program, name: str) -> dict[str, Factors]:
    b = module.b
    sizes = rule.sizes or tuple(program.weights[target].shape[1 if rule.stack else 0] for target in targets)
    if sum(sizes) != b.shape[0]:
        raise CheckpointError(
            f"{shown(name)}: B has {b.shape[0]} rows, but the model's linear has {sum(sizes)} outputs: the adapter "
            "belongs to another base model"
        )
    for transform in rule.transforms:
        if isinstance(transform, Permute):
            b = b[row_order(b.shape[0], transform)]
    if len(targets) == 1:
        return {targets[0]: (module.a, b, module.scale)}
    pieces = [size // rule.groups for size in sizes]
    bounds = np.cumsum([0, *pieces])
    grouped = b.reshape(rule.groups, sum(pieces), b.shape[1])
    return {
        target: (
            module.a,
            np.ascontiguousarray(grouped[:, bounds[i] : bounds[i + 1]]).reshape(-1, b.shape[1]),
            module.scale,
        )
        for i, target in enumerate(targets)
        if target
    }
