"""``penstock serve``: the options of the server; what it does is in ``penstock.server``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from penstock.cli.options import engine_kwargs, engine_options, take_positional_model
from penstock.cli.parser import Parser, port_number
from penstock.errors import ConfigError

EXAMPLES = (
    "penstock serve",
    "penstock serve ./Qwen2.5-0.5B-Instruct --port 8080 --served-model-name qwen",
    "penstock serve --host 0.0.0.0 --api-key-file keys.txt",
)
NOTES = """
Environment: PENSTOCK_API_KEY holds one API key, PENSTOCK_HOST and PENSTOCK_PORT the address; every engine option too,
--max-model-len as PENSTOCK_MAX_MODEL_LEN, and so on.
"""
LEVELS = ("debug", "info", "warning", "error")


def parser() -> Parser:
    made = Parser("serve", "Serve a model over HTTP in OpenAI's form: /v1/chat/completions and more.", EXAMPLES, NOTES)
    made.add_argument("place", nargs="?", metavar="MODEL", help="the same as --model")
    group = made.add_argument_group("server")
    made.option("host", "address to listen on (default: 127.0.0.1, this machine only)", group=group,
                synonyms=("hostname",), metavar="HOST")  # fmt: skip
    made.option(
        "port", "port to listen on; 0: any free one (default: 8000)", group=group, type=port_number, metavar="PORT"
    )
    made.option("api_key", "require this key; may be repeated", group=group, action="append", metavar="KEY")
    made.option("api_key_file", "file with one key a line", group=group, metavar="FILE")
    made.option("allowed_origins", "origin that browsers may call from; may be repeated", group=group,
                synonyms=("cors-allow-origin", "allowed-origin"), action="append", metavar="ORIGIN")  # fmt: skip
    made.option("log_level", f"one of {', '.join(LEVELS)} (default: info)", group=group, choices=LEVELS,
                synonyms=("uvicorn-log-level",), metavar="LEVEL")  # fmt: skip
    made.switch("quiet", "no start-up table, no progress", short="-q", group=group)
    engine_options(made)
    return made


def run(argv: Sequence[str]) -> int:
    args = parser().read(argv)
    take_positional_model(args)
    options = serve_options(args)
    from penstock.server.run import serve

    return serve(options) or 0


def serve_options(args: argparse.Namespace) -> dict[str, Any]:
    """What ``penstock.server.run.serve`` gets: its own settings, and ``engine``, keyword arguments of ``AsyncLLM``."""
    port = getattr(args, "port", None)
    if port is None:
        try:
            port = port_number(os.environ.get("PENSTOCK_PORT") or "8000")
        except argparse.ArgumentTypeError as error:
            raise ConfigError(f"PENSTOCK_PORT: {error}") from None
    return {
        "host": getattr(args, "host", None) or os.environ.get("PENSTOCK_HOST") or "127.0.0.1",
        "port": port,
        "api_keys": _keys(args),
        "allowed_origins": getattr(args, "allowed_origins", []),
        "log_level": getattr(args, "log_level", "info"),
        "quiet": getattr(args, "quiet", False),
        "engine": engine_kwargs(args),
    }


def _keys(args: argparse.Namespace) -> list[str]:
    keys = list(getattr(args, "api_key", []))
    if os.environ.get("PENSTOCK_API_KEY"):
        keys.append(os.environ["PENSTOCK_API_KEY"])
    name = getattr(args, "api_key_file", None)
    if name is not None:
        from penstock.cli.prompts import read_file

        found = [line.strip() for line in read_file(name, "the key file").splitlines()]
        found = [line for line in found if line and not line.startswith("#")]
        if not found:
            raise ConfigError(f"{name} holds no key: put one on a line")
        keys += found
    if any(not key.strip() or not key.isascii() for key in keys):
        raise ConfigError("an API key must be ASCII text and not empty")
    return keys
