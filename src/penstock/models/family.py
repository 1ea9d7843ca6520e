"""What a family is: facts, rules and the text side's data. One per file in ``families/``, as ``FAMILY``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from penstock.models.architecture import Architecture
from penstock.models.rules import Rule

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Family:
    """``architecture`` reads a config (raises ``CheckpointError``, ``UnsupportedError``), ``rules`` names its tensors.

    ``template`` is the name of the built-in chat template for checkpoints that bring none ("" none); ``stop_tokens``
    are tokens that end an answer besides the checkpoint's own EOS, where the tokenizer has them.
    """

    name: str
    model_types: tuple[str, ...]
    architecture: Callable[[Config], Architecture]
    rules: Callable[[Architecture, Config], tuple[Rule, ...]]
    template: str = ""
    stop_tokens: tuple[str, ...] = ()
