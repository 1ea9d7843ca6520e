"""Gemma 3 that also sees (4B, 12B, 27B): its text, which is `gemma3_text`. What sees is left in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from penstock.errors import CheckpointError
from penstock.models.architecture import Architecture
from penstock.models.families import gemma3_text
from penstock.models.family import Config, Family
from penstock.models.rules import Rule, ignore

DEFAULTS = {
    "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8,
}  # fmt: skip
"""What the published code takes for sizes that ``text_config`` does not say; the rest are those of `gemma3_text`."""
SEEING = ("vision_tower", "multi_modal_projector")
INSIDE = "[language_model.][model.][language_model.]"
"""Before transformers 4.52 the whole text model lay in ``language_model``, then in ``model.language_model``."""


def text_config(config: Config) -> Config:
    """The part that says how text is read, under the outer fields that mean the same."""
    text = config.get("text_config")
    if not isinstance(text, Mapping):
        raise CheckpointError(
            "config.json: model_type gemma3 needs text_config; a model of text alone is of the model_type gemma3_text"
        )
    outer = {name: config[name] for name in ("tie_word_embeddings",) if name in config}
    return {**DEFAULTS, **outer, **text, "model_type": "gemma3_text"}


def architecture(config: Config) -> Architecture:
    return gemma3_text.architecture(text_config(config))


def rules(arch: Architecture, config: Config) -> tuple[Rule, ...]:
    inner = gemma3_text.rules(arch, text_config(config))
    return (
        *(replace(rule, source=_inside(rule.source)) for rule in inner),
        *(ignore(f"[model.]{part}.*") for part in SEEING),
    )


def _inside(source: str) -> str:
    return INSIDE + source.removeprefix("[model.]") if source.startswith("[model.]") else f"[language_model.]{source}"


FAMILY = Family("gemma3", ("gemma3",), architecture, rules, template="gemma", stop_tokens=("<end_of_turn>",))
