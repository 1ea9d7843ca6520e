"""A compiler over a real tokenizer, and answers drawn from its masks."""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock.text.structured import GrammarCompiler
from penstock.text.structured.constraint import GrammarConstraint
from penstock.text.structured.vocabulary import Vocabulary
from penstock.text.tokenizer import Tokenizer
from penstock.types import StructuredOutputs
from tests.text import vocabularies


def bits(constraint: GrammarConstraint) -> set[int]:
    return set(np.flatnonzero(np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")).tolist())


def walk(constraint: GrammarConstraint, ends: set[int], seed: int, most: int = 400) -> list[int] | None:
    """Random allowed tokens up to an end token, the rarer the longer; None if there is no end in sight."""
    rng = np.random.default_rng(seed)
    taken: list[int] = []
    while len(taken) < most:
        allowed = sorted(bits(constraint))
        ending = [t for t in allowed if t in ends]
        token = int(rng.choice(ending if ending and rng.random() < 0.3 else allowed))
        if token in ends:
            return taken
        constraint.accept(token)
        taken.append(token)
    return None


def chain(count: int) -> dict[str, Any]:
    definitions = {f"d{i}": {"type": "array", "items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(count)}
    return {"$defs": {**definitions, f"d{count}": {}}, "$ref": "#/$defs/d0"}


class Opened:
    """A compiler over a real tokenizer, for a model with more rows than tokens and an end token among those."""

    def __init__(self, name: str) -> None:
        self.tokenizer: Tokenizer = vocabularies.real(name)
        self.size = self.tokenizer.vocab_size
        self.ends = {*(self.tokenizer.eos_ids or {max(self.tokenizer.special_ids)}), self.size + 5}
        self.compiler = GrammarCompiler(self.tokenizer, self.size + 70, self.ends)

    def __call__(self, **spec: Any) -> GrammarConstraint:
        return self.compiler.compile(StructuredOutputs(**spec))

    def ids(self, text: str) -> list[int]:
        """How the answer is spelt in the middle of a text."""
        return Vocabulary(self.tokenizer, sorted(self.ends))(text)

    def say(self, seed: int = 0, **spec: Any) -> str | None:
        taken = walk(self(**spec), self.ends, seed)
        return None if taken is None else self.tokenizer.decode(taken)
