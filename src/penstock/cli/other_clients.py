"""Flags of ``llama-cli``, ``swift infer`` and PaddleNLP's ``predictor.py`` that ``generate`` and ``chat`` understand.

Those for a notion that penstock has are synonyms of its own options; ``HARMLESS`` and ``BARE`` cannot change an answer
here, ``ONLY`` but for the values that ask for what is not here.
"""

from __future__ import annotations

import argparse

from penstock.cli.other_servers import FLASH, teach
from penstock.cli.parser import FALSE, Parser

HARMLESS = (
    "infer-backend",
    "model-type",
    "threads-batch",
    "numa",
    "keep",
    "batch-size",
    "use-hf",
    "merge-lora",
    "verbosity",
)
BARE = (
    "inference-model", "export-precache", "color", "interactive", "interactive-first", "conversation", "single-turn",
    "simple-io", "escape", "mlock", "no-mmap", "no-warmup", "jinja", "no-display-prompt", "log-disable", "stream",
    "benchmark", "block-attn", "use-cache", "no-perf", "perf", "kv-unified", "cont-batching",
)  # fmt: skip
SHORT = {
    "-co": "color", "-i": "interactive", "-if": "interactive-first", "-cnv": "conversation", "-st": "single-turn",
    "-e": "escape", "-tb": "threads-batch", "-b": "batch-size", "-cb": "cont-batching", "-kvu": "kv-unified",
}  # fmt: skip
ONLY: dict[str, tuple[tuple[str, ...], str]] = {
    "multi-line": (FALSE, "a message of several lines begins and ends with three quotes: leave it out"),
    "cachekv-int8-type": ((), "KV caches of 8 bits are not there yet: leave it out"),
}


def other_clients(parser: Parser) -> None:
    """Teach ``parser`` the flags that it has not by itself."""
    teach(parser, BARE, HARMLESS, SHORT, ONLY)
    parser.option("flash-attn", argparse.SUPPRESS, bare="on", words=FLASH, synonyms=("-fa",), choices=FLASH)
