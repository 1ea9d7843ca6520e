"""Tied embeddings: does the output projection in the file agree with the embedding it is said to share?

As transformers 5 does it: ``tie_word_embeddings`` holds when the file has one of the two tensors, or both with equal
numbers. When both are there and differ, the file is right and the configuration wrong: they are not tied, with a
warning. (Releases before 5 ignored the file's projection.)
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from penstock.checkpoints.patterns import pattern
from penstock.checkpoints.source import WeightSource
from penstock.models.architecture import Architecture
from penstock.models.rules import Rule

log = logging.getLogger(__name__)
CODED = ("qweight", "weight_packed")
"""What stands in the place of ``weight`` where that is quantised."""
CHUNK = 16_000_000  # bytes compared at once


def settle_ties(architecture: Architecture, source: WeightSource, rules: Sequence[Rule]) -> Architecture:
    """``architecture``, untied where the file has an output projection of its own. Call it before building."""
    if not architecture.head.tied:
        return architecture
    names = set(source.names())
    for rule in rules:
        if not rule.tied_to:
            continue
        embeddings = [r for r in rules if r.targets == (rule.tied_to,) and not r.stack]
        head = first_present(names, [rule])
        embedding = first_present(names, embeddings)
        head = head or coded_head(names, rule)
        if head is None or embedding is None:
            continue
        if head not in names or not equal_numbers(source, head, embedding):
            log.warning(
                "config.json ties %s to %s, but the file has both with different numbers: using both "
                "(set tie_word_embeddings to false to silence this)",
                head,
                embedding,
            )
            return replace(architecture, head=replace(architecture.head, tied=False))
    return architecture


def first_present(names: Collection[str], rules: Sequence[Rule]) -> str | None:
    """The first name without variables that ``rules`` ask for and the file has."""
    found = (name for rule in rules for name in pattern(rule.source).names({}) if name in names)
    return next(found, None)


def coded_head(names: Collection[str], rule: Rule) -> str | None:
    """The name of an output projection that is there as quantised tensors."""
    wanted = pattern(rule.source).names({})
    return next((n for n in wanted if any(n.removesuffix("weight") + part in names for part in CODED)), None)


def equal_numbers(source: WeightSource, one: str, other: str) -> bool:
    """Equal numbers, compared in pieces so that neither tensor is resident as a whole."""
    a, b = source.info(one), source.info(other)
    if a.shape != b.shape:
        return False
    left, right = source.get(one).reshape(-1), source.get(other).reshape(-1)
    step = max(1, CHUNK // max(a.dtype.itemsize, b.dtype.itemsize))
    for start in range(0, left.size, step):
        x, y = left[start : start + step], right[start : start + step]
        same = (
            np.array_equal(x.view(np.uint8), y.view(np.uint8))
            if a.dtype == b.dtype
            else np.array_equal(x.astype(np.float32), y.astype(np.float32))
        )
        source.release(one)
        source.release(other)
        if not same:
            return False
    return True
