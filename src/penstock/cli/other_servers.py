"""Flags of ``vllm serve``, ``text-generation-launcher``, ``swift deploy`` and ``llama-server`` beyond penstock's own.

Those for a notion that penstock has are synonyms (``SYNONYMS``); the rest cannot change an answer here (``HARMLESS``,
``BARE``), or only with values that ask for what is not here (``ONLY``), or are refused with what to do instead
(``REFUSED``).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from penstock.cli.parser import FALSE, Parser

SYNONYMS: dict[str, tuple[str, ...]] = {
    "host": ("hostname",),
    "port": ("server-port", "-p"),
    "api_key": ("api-keys",),
    "admin_api_key": ("admin-api-keys",),
    "allowed_origin": ("allowed-origins", "cors-allow-origin"),
    "allowed_host": ("allowed-hosts", "trusted-host"),
    "max_requests": ("max-concurrency", "max-concurrent-requests", "limit-worker-concurrency"),
    "max_body": ("payload-limit",),
    "max_header": ("h11-max-incomplete-event-size",),
    "drain_timeout": ("shutdown-timeout",),
    "write_timeout": ("timeout", "-to"),
    "log_requests": ("enable-log-requests", "verbose", "-v"),
    "max_waiting": ("max-num-queued-reqs",),
    "max_num_seqs": ("max-batch-size",),
    "max_num_batched_tokens": ("batch-size", "-b"),
    "download_dir": ("huggingface-hub-cache",),
    "adapters": ("lora-adapters",),
    "served_model_name": ("-a",),
    "tool_call_parser": ("tool-parser",),
    "max_loaded_models": ("models-max",),
    "seed": ("-s",),
    "otlp_traces_endpoint": ("otlp-endpoint",),
}
HARMLESS = (
    "validation-workers", "max-stop-sequences", "max-best-of", "max-top-n-tokens", "max-waiting-tokens",
    "waiting-served-ratio", "max-batch-total-tokens", "cuda-graphs", "usage-stats", "max-log-len",
    "infer-backend", "log-interval", "owned-by", "response-role",
    "chat-template-content-format", "threads-batch", "numa", "cache-reuse", "cache-ram", "threads-http",
    "max-num-partial-prefills", "model-type", "torch-device", "use-hf", "merge-lora", "collect-detailed-traces",
)  # fmt: skip
BARE = (
    "enable-auto-tool-choice", "disable-custom-kernels", "cont-batching", "mlock", "no-mmap", "jinja", "no-webui",
    "metrics", "props", "slots", "no-slots", "disable-fastapi-docs", "disable-frontend-multiprocessing", "env",
    "enable-reasoning", "allow-credentials", "enable-prompt-tokens-details", "enable-server-load-tracking",
    "kv-unified", "no-warmup", "enable-request-id-headers",
)  # fmt: skip
SHORT = {
    "-tb": "threads-batch",
    "-cb": "cont-batching",
    "-cram": "cache-ram",
    "-kvu": "kv-unified",
}
FLASH = ("on", "off", "auto")
ONLY: dict[str, tuple[tuple[str, ...], str]] = {
    "num-beams": (("1",), "beams are asked for by a request: use_beam_search"),
    "sharded": (FALSE, "this build runs on one device: use false, or leave it out"),
}
REFUSED = {
    "controller-address": "there is no controller: one process serves, put a load balancer in front of several",
    "worker-address": "there is no controller: one process serves, put a load balancer in front of several",
    "metrics-port": "metrics are at /metrics of the same port: leave it out",
    "ssl-keyfile": "penstock speaks plain HTTP: put a reverse proxy with TLS in front",
    "ssl-certfile": "penstock speaks plain HTTP: put a reverse proxy with TLS in front",
    "max-input-length": "prompts are bounded with answers: use --max-model-len",
    "max-input-tokens": "prompts are bounded with answers: use --max-model-len",
}
TOOL_PARSERS = {
    "hermes": "hermes", "qwen": "hermes", "qwen25": "hermes", "qwen2_5": "hermes", "qwen3": "hermes",
    "llama3_json": "llama3_json", "llama3": "llama3_json", "llama": "llama3_json", "mistral": "mistral", "glm": "glm",
    "chatglm": "glm", "glm4": "glm", "auto": "auto",
}  # fmt: skip
"""Names of parsers elsewhere, with ours."""
THINKERS = ("auto", "deepseek_r1", "deepseek", "deepseek-legacy", "qwen3", "qwq", "think", "glm45", "holo2")
"""Names of parsers that look for ``<think>``, which is the one mark that is looked for here, wherever it is used."""


def other_servers(parser: Parser) -> None:
    """Teach ``parser`` the flags that it has not by itself. After its own options: a synonym here wins."""
    for name, synonyms in SYNONYMS.items():
        parser.synonyms(name, synonyms)
    teach(parser, BARE, HARMLESS, SHORT, ONLY)
    for name, why in REFUSED.items():
        parser.option(name, argparse.SUPPRESS, type=only((), why))
    parser.option("reasoning-parser", argparse.SUPPRESS, type=thinker, synonyms=("reasoning-format",))
    for name in ("disable-log-requests", "disable-uvicorn-access-log", "log-disable"):
        parser.switch(name, argparse.SUPPRESS)
    parser.option("flash-attn", argparse.SUPPRESS, bare="on", words=FLASH, synonyms=("-fa",), choices=FLASH)
    parser.switch("disable-radix-cache", argparse.SUPPRESS)
    parser.switch("json-output", argparse.SUPPRESS, synonyms=("log-json",))


def teach(
    parser: Parser,
    bare: Iterable[str],
    harmless: Iterable[str],
    short: Mapping[str, str],
    some: Mapping[str, tuple[tuple[str, ...], str]],
) -> None:
    """Flags of others: switches and options without effect, short names, and options that ``some`` values may have."""
    for name in bare:
        parser.switch(name, argparse.SUPPRESS)
    for name in harmless:
        parser.option(name, argparse.SUPPRESS)
    for letter, name in short.items():
        parser.synonyms(name, (letter,))
    for name, (values, why) in some.items():
        parser.option(name, argparse.SUPPRESS, type=only(values, why))


def translated(args: argparse.Namespace) -> dict[str, Any]:
    """Options of the server that such flags stand for."""
    found: dict[str, Any] = {}
    if hasattr(args, "reasoning_parser"):
        found["reasoning"] = args.reasoning_parser != "none"
    if getattr(args, "disable_log_requests", False) or getattr(args, "log_disable", False):
        found["log_requests"] = False
    if getattr(args, "disable_uvicorn_access_log", False):
        found["log_requests"] = False
    if getattr(args, "disable_radix_cache", False):
        found["enable_prefix_caching"] = False
    if getattr(args, "json_output", False):
        found["log_format"] = "json"
    return found


def tool_parser(text: str) -> str:
    """Our name of a parser for tool calls."""
    if text not in TOOL_PARSERS:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(sorted(TOOL_PARSERS))}, got '{text}'")
    return TOOL_PARSERS[text]


def thinker(text: str) -> str:
    if text not in THINKERS and text != "none":
        raise argparse.ArgumentTypeError(
            f"'{text}' is not known; reasoning is told apart where the model's template marks it with <think>: leave "
            "it out, or use --no-reasoning"
        )
    return text


def only(values: tuple[str, ...], why: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text.lower() not in values:
            raise argparse.ArgumentTypeError(why)
        return text

    return check
