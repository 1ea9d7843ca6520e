"""``penstock serve``: the options of the server as flags; what it does is in ``penstock.server``."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.cli import sampling
from penstock.cli.load import LoadProgress, show_resolved
from penstock.cli.options import HELP as ENGINE_HELP
from penstock.cli.options import OTHER_ENGINES, engine_kwargs, engine_options
from penstock.cli.other_servers import other_servers, tool_parser, translated
from penstock.cli.parser import Converter, Parser, number, port_number, size, truth, whole
from penstock.cli.terminal import note
from penstock.errors import ConfigError
from penstock.foreign import SYNONYMS
from penstock.server.options import TOOL_FORMATS, ServerOptions

if TYPE_CHECKING:
    from penstock.server.state import State

EXAMPLES = (
    "penstock serve",
    "penstock serve ./Qwen2.5-0.5B-Instruct --port 8080 --served-model-name qwen",
    "penstock serve --model small=./Qwen2.5-0.5B-Instruct --model large=./Qwen2.5-7B-Instruct",
    "penstock serve --host 0.0.0.0 --api-key-file keys.txt",
)
NOTES = """
In the environment: PENSTOCK_API_KEY (one key), PENSTOCK_HOST, PENSTOCK_PORT, and every option of the model and below,
--max-model-len as PENSTOCK_MAX_MODEL_LEN, and so on. Flags of vllm serve, text-generation-launcher, swift deploy and
llama-server for the same notions are understood. Sampling options are what requests start from. Ctrl-C
or SIGTERM lets running requests finish, a second one ends.
"""
LEVELS = ("debug", "info", "warning", "error")
HELP = {
    "host": "address to listen on (default: 127.0.0.1, this machine only)",
    "port": "port to listen on; 0: any free one (default: 8000)",
    "api_keys": "require this key; may be repeated",
    "api_key_file": "file with one key a line",
    "admin_api_keys": "key that may load and unload models and adapters; may be repeated",
    "allowed_hosts": "Host header to answer besides this machine's names; *: any; may be repeated",
    "allowed_origins": "web origin that may call from a browser; may be repeated",
    "disabled_dialects": "API dialect to switch off; may be repeated",
    "max_body": "largest request (default: 32M)",
    "max_header": "largest header (default: 32K)",
    "max_connections": "most open connections (default: 2048)",
    "max_requests": "most requests under way or queued (default: 4096)",
    "max_requests_per_client": "most of them by one API key or address; 0: no bound of its own (default: 0)",
    "request_timeout": "seconds for a whole answer; 0: no bound (default: 0)",
    "queue_timeout": "seconds a request may wait for its turn; 0: no bound (default: 0)",
    "header_timeout": "seconds for a request's header (default: 20)",
    "body_timeout": "seconds for a request's body (default: 60)",
    "write_timeout": "seconds a client may leave an answer unread (default: 60)",
    "keep_alive": "seconds an idle connection is kept (default: 30)",
    "drain_timeout": "seconds that running requests get to finish at the end (default: 30)",
    "watchdog_timeout": "seconds without a step after which /health fails (default: 120)",
    "hang_timeout": "seconds without a step after which the server ends; 0: never (default: 1800)",
    "log_requests": "one line for every request (default: on)",
    "tool_call_parser": f"how the model writes tool calls: {', '.join(TOOL_FORMATS)} (default: auto, by its template)",
    "reasoning": "tell thoughts apart from the answer, where the template marks them (default: on)",
    "pooling": "how embeddings are made: mean, last, auto (default: auto, as the checkpoint says, else last)",
    "log_format": "text, or json: an object a line (default: text)",
    "model_aliases": "further name of the model; may be repeated",
    "models_dir": "folder of models; each is loaded when a request first names it",
    "max_loaded_models": "most of them loaded at once; 0: no bound (default: 0)",
    "model_memory": "most memory for them, e.g. 16G; 0: no bound (default: 0)",
    "otlp_traces_endpoint": "OpenTelemetry collector to send spans to, e.g. http://localhost:4318/v1/traces",
}
SINGULAR = {"api_keys": "api_key", "admin_api_keys": "admin_api_key", "allowed_hosts": "allowed_host",
            "allowed_origins": "allowed_origin", "disabled_dialects": "disable_dialect",
            "model_aliases": "model_alias"}  # fmt: skip
METAVARS = {"host": "HOST", "port": "PORT", "api_key_file": "FILE", "api_keys": "KEY", "admin_api_keys": "KEY",
            "allowed_hosts": "HOST", "allowed_origins": "ORIGIN", "disabled_dialects": "NAME", "model_aliases": "NAME",
            "tool_call_parser": "NAME", "models_dir": "DIR", "otlp_traces_endpoint": "URL"}  # fmt: skip
ENVIRONMENT = {"host": "PENSTOCK_HOST", "port": "PENSTOCK_PORT", "api_keys": "PENSTOCK_API_KEY"}


_NAME = re.compile(r"[A-Za-z0-9][\w.:/-]{0,127}")


def parser() -> Parser:
    made = Parser("serve", "Serve a model over HTTP in OpenAI's form: /v1/chat/completions and more.", EXAMPLES, NOTES)
    made.add_argument("place", nargs="?", metavar="MODEL", help="the same as --model")
    group = made.add_argument_group("server")
    made.option(
        "model", f"{ENGINE_HELP['model']}; with NAME= in front, several may be served", short="-m", group=group,
        synonyms=[*(s for s, name in SYNONYMS.items() if name == "model"), *OTHER_ENGINES["model"]], action="append",
        metavar="[NAME=]MODEL",
    )  # fmt: skip
    for each in fields(ServerOptions):
        _add(made, group, each)
    made.option("log_level", f"one of {', '.join(LEVELS)} (default: info)", group=group, choices=LEVELS,
                synonyms=("uvicorn-log-level",), metavar="LEVEL")  # fmt: skip
    made.switch("quiet", "no start-up table, no progress", short="-q", group=group)
    sampling.sampling_options(made, leave_out=("seed", "n", "logprobs", *sampling.BEAMS))
    engine_options(made, leave_out=("model", "served_model_name"))
    made.option("served_model_name", "name under which the model is served (default: as given to --model); further "
                "ones are aliases", group=group, synonyms=OTHER_ENGINES["served_model_name"], nargs="+",
                action="extend", metavar="NAME")  # fmt: skip
    other_servers(made)
    return made


def run(argv: Sequence[str]) -> int:
    args = parser().read(argv)
    options, start = serve_options(args), sampling_defaults(args)
    from penstock.server import logs
    from penstock.server.run import leave, serve

    logs.configure(str(options.get("log_format", "text")), getattr(args, "log_level", "info"))
    quiet = getattr(args, "quiet", False)

    def ready(url: str, state: State) -> None:
        progress.stop()
        for served in state.served.values():
            if not quiet:
                show_resolved(served.llm.model.resolved)
        note(f"ready at {url} (OpenAI API: {url}/v1; model: {', '.join(state.served) or 'none yet'})")

    with LoadProgress(quiet) as progress:
        status = serve(options, sampling=start, progress=progress, ready=ready)
    return leave(status)


def sampling_defaults(args: argparse.Namespace) -> dict[str, Any]:
    """The sampling options that were given, checked: what requests start from."""
    names = [name for name in (*sampling.OPTIONS, *sampling.SWITCHES) if name not in ("seed", "n", "logprobs")]
    found = {n: getattr(args, n) for n in names if hasattr(args, n)}
    if found:
        sampling.check(argparse.Namespace(**found))
    return {n: tuple(v) if n in sampling.REPEATED else v for n, v in found.items()}


def models(args: argparse.Namespace) -> str | dict[str, str] | None:
    """What ``MODEL`` and ``--model`` name: one model, or several by the names they are served under."""
    place = getattr(args, "place", None)
    given = list(dict.fromkeys([*([place] if place is not None else []), *getattr(args, "model", [])]))
    if len(given) < 2 and not any(_named(text)[0] for text in given):
        return given[0] if given else None
    if hasattr(args, "served_model_name"):
        raise ConfigError("--served-model-name is for one model: give several as --model NAME=MODEL")
    found: dict[str, str] = {}
    for text in given:
        name, where = _named(text)
        if not name:
            raise ConfigError(f"two models are named, and '{text}' has no name: give each as --model NAME=MODEL")
        if name in found:
            raise ConfigError(f"two models are named '{name}': give each a name of its own")
        found[name] = where
    return found


def _named(text: str) -> tuple[str, str]:
    """(name, place) of ``NAME=PLACE``; no name where the whole is a path that there is."""
    name, equals, where = text.partition("=")
    if not equals or not _NAME.fullmatch(name) or Path(text).expanduser().exists():
        return "", text
    if not where:
        raise ConfigError(f"--model {text}: no model after the '=', give NAME=MODEL")
    return name, where


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
            value = getattr(args, dest)
            found[name] = [*found.get(name, []), *_flat(value)] if name in SINGULAR else value
    wish = models(args)
    rest = argparse.Namespace(**{k: v for k, v in vars(args).items() if k != "model"})
    names = [name for text in getattr(args, "served_model_name", ()) for name in text.split(",") if name]
    if names:
        rest.served_model_name = names[0]
    if names[1:]:
        found["model_aliases"] = [*found.get("model_aliases", []), *names[1:]]
    engine = engine_kwargs(rest) | ({} if wish is None else {"model": wish})
    if engine.get("max_model_len") == 0:  # llama-server's word for the model's own
        del engine["max_model_len"]
    if getattr(args, "no_webui", False) or getattr(args, "no_ui", False):
        found["disabled_dialects"] = [*found.get("disabled_dialects", []), "page"]
    return {**found, **translated(args), **engine}


def converter(each: Field[Any]) -> Converter:
    """How the text of a flag becomes the value of a field of ``ServerOptions``."""
    if each.name == "port":
        return port_number
    if each.name in ("max_body", "max_header", "model_memory"):
        return size
    if each.name == "tool_call_parser":
        return tool_parser
    if each.name == "allowed_origins":
        return _listed
    return {"bool": truth, "int": whole, "float": number}.get(str(each.type), str)


def _listed(text: str) -> str | list[str]:
    """A text, or several as vLLM writes them: ``["a", "b"]``."""
    if not text.startswith("["):
        return text
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise argparse.ArgumentTypeError(f"must be one text or a JSON list of texts, got '{text}'")
    return found


def _flat(values: list[Any]) -> list[Any]:
    return [one for each in values for one in (each if isinstance(each, list) else [each])]


def _add(parser: Parser, group: Any, each: Field[Any]) -> None:
    name, convert = each.name, converter(each)
    text = HELP.get(name, "")
    if convert is truth:
        parser.switch(name, text, group=group)
        return
    more: dict[str, Any] = {"action": "append"} if name in SINGULAR else {}
    usual = {size: "SIZE", whole: "N", number: "SECONDS"}
    metavar = METAVARS.get(name) or next((m for kind, m in usual.items() if kind is convert), "VALUE")
    parser.option(SINGULAR.get(name, name), text, group=group, type=convert, metavar=metavar, **more)
