"""Rules: how a family's tensors are called in a checkpoint, and how they become the program's weights. Data only.

A family lists them once, for every format: ``checkpoints/rules.py`` applies them, and the scheme of a weight
(``quant/``) says which tensors stand behind a name that ends in ``weight``.

Patterns
    ``{i}``              a number; the same in source and target
    ``{p:weight|bias}``  one of the words
    ``[model.]``         may be absent (sources only)
    ``*``                anything (only in `ignore`)

    RULES = (
        rename("[model.]embed_tokens.weight", "embed.weight"),
        rename("[model.]layers.{i}.self_attn.{x:q|k|v}_proj.{p:weight|bias}", "layers.{i}.attn.{x}.{p}"),
        split("[model.]layers.{i}.mlp.gate_up_proj.weight",
              ("layers.{i}.mlp.gate.weight", "layers.{i}.mlp.up.weight")),
        rename("lm_head.weight", "head.weight", tied_to="embed.weight"),
        ignore("*.rotary_emb.inv_freq"),
    )

Where several rules make one target, the first whose source the checkpoint has is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Transpose:
    """The file holds [k, n] (GPT-2's Conv1D); plain numbers only, since other formats store it the usual way."""


@dataclass(frozen=True, slots=True)
class Permute:
    """Reorder the rows of each of ``heads`` equal blocks of d rows (rotary layouts).

    ``pairs``: row 2j is the file's j and row 2j+1 its j + d/2. ``halves`` is the inverse.
    """

    heads: int
    to: Literal["pairs", "halves"]


@dataclass(frozen=True, slots=True)
class UnitRows:
    """Divide each row by its length (Baichuan 2's output projection); plain numbers only."""


Transform = Transpose | Permute | UnitRows


@dataclass(frozen=True, slots=True)
class Rule:
    """One source tensor (or, with ``stack``, several) and what it becomes.

    ``targets``: none ignores the tensor, one renames it, several split its rows. ``groups``: the rows to split stand in
    this many equal groups, each holding a piece of every target in turn (per head: BLOOM, GPT-NeoX; per KV head:
    InternLM2); 1 is one piece after the other. ``sizes``: rows per target, taken from the program when empty; a target
    ``""`` drops its rows and needs a size. ``stack``: the pattern variable that counts along the target's new axis 0.
    ``transforms`` act on the source, in order, before the split. ``tied_to``: another target with the same numbers when
    the embedding is tied: the tensor is then not needed, and stands in where only it is present.
    """

    source: str
    targets: tuple[str, ...]
    groups: int = 1
    sizes: tuple[int, ...] = ()
    stack: str = ""
    transforms: tuple[Transform, ...] = ()
    tied_to: str = ""


def rename(source: str, target: str, *transforms: Transform, tied_to: str = "") -> Rule:
    """The tensor ``source`` is the weight ``target``."""
    return Rule(source, (target,), transforms=transforms, tied_to=tied_to)


def split(
    source: str, targets: tuple[str, ...], *transforms: Transform, groups: int = 1, sizes: tuple[int, ...] = ()
) -> Rule:
    """The output rows of ``source`` are divided among ``targets``."""
    return Rule(source, targets, groups=groups, sizes=sizes, transforms=transforms)


def stack(source: str, target: str, over: str, *transforms: Transform) -> Rule:
    """The tensors ``source`` for ``{over}`` = 0, 1, … lie one after the other along axis 0 of ``target``."""
    return Rule(source, (target,), stack=over, transforms=transforms)


def ignore(source: str) -> Rule:
    """Tensors that change nothing: buffers that can be computed, masks."""
    return Rule(source, ())


IGNORED = (
    ignore("*rotary_emb.inv_freq"),
    ignore("*rotary_pos_emb.inv_freq"),
    ignore("*.masked_bias"),
)
"""Buffers that old checkpoints of many families carry."""
