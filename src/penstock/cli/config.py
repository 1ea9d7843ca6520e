"""``penstock config show``: every setting in force, and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from penstock.cli.options import engine_kwargs, engine_options, origins
from penstock.cli.parser import Parser
from penstock.cli.terminal import write
from penstock.config import from_kwargs
from penstock.errors import ConfigError, nearest

EXAMPLES = ("penstock config show", "PENSTOCK_THREADS=4 penstock config show --max-model-len 8K")


def parser() -> Parser:
    made = Parser("config", "Show the settings that a command with these options would run with.", EXAMPLES)
    made.add_argument("action", nargs="?", metavar="show", default="show", help="the only action, and the default")
    made.switch("json", "as one JSON object")
    engine_options(made)
    return made


def run(argv: Sequence[str]) -> int:
    args = parser().read(argv)
    if args.action != "show":
        raise ConfigError(f"unknown action '{args.action}'{nearest(args.action, ['show'])}: penstock config show")
    config = asdict(from_kwargs(engine_kwargs(args)))
    if getattr(args, "json", False):
        write(json.dumps(config, ensure_ascii=False, indent=1) + "\n")
        return 0
    sources = {name: origin for name, (_, origin) in origins(args).items()}
    for part, values in config.items():
        write(f"{part}\n")
        for name, value in values.items():
            write(f"  {name:<24} {_shown(value):<24} {sources.get(name, 'default')}\n")
    return 0


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
