"""Sampling options: the names of ``SamplingParams``, and those of Hugging Face and llama.cpp for the same notions."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from penstock.cli.parser import Converter, Parser, number, whole

if TYPE_CHECKING:
    from penstock.types import SamplingParams

Row = tuple[str, Converter, tuple[str, ...]]
OPTIONS: dict[str, Row] = {
    "max_tokens": ("most tokens of an answer", whole, ("max-new-tokens", "n-predict", "predict")),
    "temperature": ("0 is greedy (default: the checkpoint's, else 1)", number, ("temp",)),
    "top_p": ("share of probability kept (default: the checkpoint's, else 1)", number, ()),
    "top_k": ("number of tokens kept; 0: all (default: the checkpoint's, else 0)", whole, ()),
    "min_p": ("least probability kept, as a share of the best (default: 0)", number, ()),
    "typical_p": ("share of probability kept, the most typical tokens first (default: 1)", number, ("typical",)),
    "repetition_penalty": ("above 1 repeats less (default: the checkpoint's, else 1)", number, ("repeat-penalty",)),
    "presence_penalty": ("on tokens that were put out (default: 0)", number, ()),
    "frequency_penalty": ("by how often they were (default: 0)", number, ()),
    "seed": ("the same seed gives the same answer", whole, ("-s",)),
    "n": ("answers for each prompt (default: 1)", whole, ("num-return-sequences",)),
    "stop": ("end before this text; may be repeated", str, ("stop-strings", "reverse-prompt", "stop-words", "-r")),
    "stop_token_ids": ("end after this token; may be repeated", whole, ("stop-token-id",)),
    "min_tokens": ("least tokens of an answer (default: 0)", whole, ("min-new-tokens",)),
    "num_beams": ("beam search with N beams, best answers first", whole, ("beam-size",)),
    "length_penalty": ("of beam search: above 0 favours long answers (default: 1)", number, ()),
    "logprobs": ("also the N most likely tokens at each place (with --json)", whole, ("n-probs",)),
}
REPEATED = ("stop", "stop_token_ids")
SWITCHES = {
    "watermark": ("mark answers so that a detector knows them", ()),
    "ignore_eos": ("go on after the model's end token", ()),
    "skip_special_tokens": ("leave control tokens out of the text (default: on)", ()),
    "early_stopping": ("of beam search: end as soon as there are enough answers", ()),
    "do_sample": ("Hugging Face's switch: false is greedy, whatever the temperature", ()),
}


DRAWING = ("temperature", "top_p", "top_k", "min_p", "typical_p")
BEAMS = ("num_beams", "length_penalty", "early_stopping")


def sampling_options(parser: Parser, *, leave_out: tuple[str, ...] = ()) -> None:
    """Add the options of ``OPTIONS`` and ``SWITCHES`` to ``parser``."""
    group = parser.add_argument_group("sampling")
    for name, (text, convert, synonyms) in OPTIONS.items():
        if name in leave_out:
            continue
        more: dict[str, Any] = {"action": "append"} if name in REPEATED else {}
        metavar = "N" if convert is whole else "X" if convert is number else "TEXT"
        parser.option(
            name, text, group=group, synonyms=synonyms, type=convert, metavar=metavar,
            short="-n" if name == "max_tokens" else None, **more,
        )  # fmt: skip
    for name, (text, synonyms) in SWITCHES.items():
        if name in leave_out:
            continue
        parser.switch(name, text, group=group, synonyms=synonyms)


def given(args: argparse.Namespace) -> dict[str, Any]:
    """The sampling options that were given, under their own names."""
    values = {name: getattr(args, name) for name in (*OPTIONS, *SWITCHES) if hasattr(args, name)}
    return {name: tuple(v) if name in REPEATED else v for name, v in values.items()}


def check(args: argparse.Namespace) -> None:
    """Raise ``RequestError`` for a value that no model could take, before a model is loaded."""
    from penstock.sampling_defaults import from_hf
    from penstock.types import SamplingParams

    from_hf(_drawn(given(args)), replace(SamplingParams(), max_tokens=None))


def params(args: argparse.Namespace, defaults: SamplingParams, max_tokens: int | None) -> SamplingParams:
    """The given options over the checkpoint's ``defaults``, with ``max_tokens`` unless an option says otherwise."""
    from penstock.sampling_defaults import from_hf

    return from_hf(_drawn(given(args)), replace(defaults, max_tokens=max_tokens))


def _drawn(values: dict[str, Any]) -> dict[str, Any]:
    """Without what beam search has no use for, if ``do_sample`` says that nothing is drawn."""
    if values.get("num_beams", 1) > 1 and values.get("do_sample") is False:
        return {name: value for name, value in values.items() if name not in DRAWING}
    return values
