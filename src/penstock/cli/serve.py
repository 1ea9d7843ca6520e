"""``penstock serve``: the options of the server as flags; what it does is in ``penstock.server``."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any

from penstock.cli.load import LoadProgress, show_resolved
from penstock.cli.options import engine_kwargs, engine_options, take_positional_model
from penstock.cli.parser import Converter, Parser, number, port_number, size, truth, whole
from penstock.cli.terminal import note
from penstock.errors import ConfigError
from penstock.server.options import TOOL_FORMATS, ServerOptions

if TYPE_CHECKING:
    from penstock.server.state import State

EXAMPLES = (
    "penstock serve",
    "penstock serve ./Qwen2.5-0.5B-Instruct --port 8080 --served-model-name qwen",
    "penstock serve --host 0.0.0.0 --api-key-file keys.txt",
)
NOTES = """
In the environment: PENSTOCK_API_KEY (one key), PENSTOCK_HOST, PENSTOCK_PORT, and every option of the model and below,
--max-model-len as PENSTOCK_MAX_MODEL_LEN, and so on. Ctrl-C or SIGTERM lets running requests finish, a second one ends.
"""
LEVELS = ("debug", "info", "warning", "error")
HELP = {
    "host": "address to listen on (default: 127.0.0.1, this machine only)",
    "port": "port to listen on; 0: any free one (default: 8000)",
    "api_keys": "require this key; may be repeated",
    "api_key_file": "file with one key a line",
    "allowed_hosts": "Host header to answer besides this machine's names; *: any; may be repeated",
    "allowed_origins": "web origin that may call from a browser; may be repeated",
    "disabled_dialects": "API dialect to switch off; may be repeated",
    "max_body": "largest request (default: 32M)",
    "max_header": "largest header (default: 32K)",
    "max_connections": "most open connections (default: 2048)",
    "max_requests": "most requests under way or queued (default: 4096)",
    "max_requests_per_client": "most of them by one API key or address; 0: no bound of its own (default: 0)",
    "request_timeout": "seconds for a whole answer; 0: no bound (default: 0)",
    "header_timeout": "seconds for a request's header (default: 20)",
    "body_timeout": "seconds for a request's body (default: 60)",
    "write_timeout": "seconds a client may leave an answer unread (default: 60)",
    "keep_alive": "seconds an idle connection is kept (default: 30)",
    "drain_timeout": "seconds that running requests get to finish at the end (default: 30)",
    "watchdog_timeout": "seconds without a step after which /health fails (default: 120)",
    "log_requests": "one line for every request (default: on)",
    "tool_call_parser": f"how the model writes tool calls: {', '.join(TOOL_FORMATS)} (default: auto, by its template)",
    "reasoning": "tell thoughts apart from the answer, where the template marks them (default: on)",
}
SINGULAR = {"api_keys": "api_key", "allowed_hosts": "allowed_host", "allowed_origins": "allowed_origin",
            "disabled_dialects": "disable_dialect"}  # fmt: skip
SYNONYMS = {
    "host": ("hostname",),
    "api_keys": ("api-keys",),
    "allowed_origins": ("allowed-origins", "cors-allow-origin"),
    "allowed_hosts": ("allowed-hosts", "trusted-host"),
    "max_requests": ("max-concurrency",),
}
METAVARS = {"host": "HOST", "port": "PORT", "api_key_file": "FILE", "api_keys": "KEY", "allowed_hosts": "HOST",
            "allowed_origins": "ORIGIN", "disabled_dialects": "NAME",
            "tool_call_parser": "NAME"}  # fmt: skip
ENVIRONMENT = {"host": "PENSTOCK_HOST", "port": "PENSTOCK_PORT", "api_keys": "PENSTOCK_API_KEY"}


def parser() -> Parser:
    made = Parser("serve", "Serve a model over HTTP in OpenAI's form: /v1/chat/completions and more.", EXAMPLES, NOTES)
    made.add_argument("place", nargs="?", metavar="MODEL", help="the same as --model")
    group = made.add_argument_group("server")
    for each in fields(ServerOptions):
        _add(made, group, each)
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

    logging.basicConfig(
        level=getattr(args, "log_level", "info").upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    quiet = getattr(args, "quiet", False)

    def ready(url: str, state: State) -> None:
        progress.stop()
        for served in state.served.values():
            if not quiet:
                show_resolved(served.llm.model.resolved)
        note(f"ready at {url} (OpenAI API: {url}/v1; model: {', '.join(state.served)})")

    with LoadProgress(quiet) as progress:
        return serve(options, progress=progress, ready=ready)


def serve_options(args: argparse.Namespace) -> dict[str, Any]:
    """What was given for the server and the engine, flat, as ``penstock.server.run.serve`` takes it."""
    found: dict[str, Any] = {}
    for each in fields(ServerOptions):
        name, text = each.name, os.environ.get(ENVIRONMENT.get(each.name, ""), "")
        dest = SINGULAR.get(name, name)
        if text:
            try:
                value = converter(each)(text)
            except argparse.ArgumentTypeError as error:
                raise ConfigError(f"{ENVIRONMENT[name]}: {error}") from None
            found[name] = [value] if name in SINGULAR else value
        if hasattr(args, dest):
            found[name] = [*found.get(name, []), *getattr(args, dest)] if name in SINGULAR else getattr(args, dest)
    return {**found, **engine_kwargs(args)}


def converter(each: Field[Any]) -> Converter:
    """How the text of a flag becomes the value of a field of ``ServerOptions``."""
    if each.name == "port":
        return port_number
    if each.name in ("max_body", "max_header"):
        return size
    return {"bool": truth, "int": whole, "float": number}.get(str(each.type), str)


def _add(parser: Parser, group: Any, each: Field[Any]) -> None:
    name, convert = each.name, converter(each)
    text, synonyms = HELP.get(name, ""), SYNONYMS.get(name, ())
    if convert is truth:
        parser.switch(name, text, group=group, synonyms=synonyms)
        return
    more: dict[str, Any] = {"action": "append"} if name in SINGULAR else {}
    usual = {size: "SIZE", whole: "N", number: "SECONDS"}
    metavar = METAVARS.get(name) or next((m for kind, m in usual.items() if kind is convert), "VALUE")
    parser.option(SINGULAR.get(name, name), text, group=group, synonyms=synonyms, type=convert, metavar=metavar, **more)
