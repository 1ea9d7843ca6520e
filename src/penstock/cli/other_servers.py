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
    "drain_timeout": ("shutdown-timeout", "graceful-termination-timeout"),
    "write_timeout": ("timeout", "-to"),
    "log_requests": ("enable-log-requests", "verbose", "-v"),
    "max_waiting": ("max-num-queued-reqs", "max-queued-requests"),
    "max_queued_tokens": ("max-num-queued-tokens",),
    "max_num_seqs": ("max-batch-size",),
    "max_num_batched_tokens": ("batch-size", "-b"),
    "download_dir": ("huggingface-hub-cache", "weights-cache-override"),
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
    "max-cpu-loras", "structured-outputs-config", "max-parallel-loading-workers", "attention-backend",
    "mm-processor-kwargs", "prefix-caching-hash-algo", "h11-max-header-count", "model-impl", "optimization-level",
    "max-client-batch-size", "shard-uds-path", "master-addr", "master-port", "fit", "repeat-last-n", "log-colors",
    "keep", "main-gpu", "split-mode", "tensor-split", "prio", "poll", "cpu-mask", "stream", "infer-stream", "logprobs",
    "top-logprobs", "schedule-policy", "grammar-backend", "convert",
)  # fmt: skip
BARE = (
    "enable-auto-tool-choice", "disable-custom-kernels", "cont-batching", "mlock", "no-mmap", "jinja", "no-webui",
    "metrics", "props", "slots", "no-slots", "disable-fastapi-docs", "disable-frontend-multiprocessing", "env",
    "enable-reasoning", "allow-credentials", "enable-prompt-tokens-details", "enable-server-load-tracking",
    "kv-unified", "no-warmup", "enable-request-id-headers", "exclude-tools-when-tool-choice-none", "numa-bind",
    "disable-grammar-support", "enable-prefill-logprobs", "embedding", "embeddings", "no-context-shift", "swa-full",
    "check-tensors", "op-offload", "no-kv-offload", "escape", "log-timestamps", "log-prefix", "no-ui",
    "enable-metrics",
)  # fmt: skip
SHORT = {
    "-tb": "threads-batch",
    "-cb": "cont-batching",
    "-cram": "cache-ram",
    "-kvu": "kv-unified",
    "-O": "optimization-level",
    "-j": "json-schema",
}
FLASH = ("on", "off", "auto")
_NO_SPECULATION = "speculative decoding is not there yet: leave it out"
_NO_SAMPLER = "this sampler is not there: leave it out"
ONLY: dict[str, tuple[tuple[str, ...], str]] = {
    "num-beams": (("1",), "beams are asked for by a request: use_beam_search"),
    "sharded": (FALSE, "this build runs on one device: use false, or leave it out"),
    "speculate": (("0",), _NO_SPECULATION),
    "api-server-count": (("1",), "one process serves: put a load balancer in front of several"),
    "root-path": (("", "/"), "paths begin at /: let the proxy take the prefix away"),
    "kv-offloading-size": (("0",), "the KV cache is in memory: bound it with --kv-cache-memory"),
    "sleep-idle-seconds": (("-1",), "models from --models-dir are unloaded by --max-loaded-models or --model-memory"),
    "reasoning-budget": (("-1",), "requests say it: thinking_token_budget"),
    "dry-multiplier": (("0", "0.0"), _NO_SAMPLER),
    "xtc-probability": (("0", "0.0"), _NO_SAMPLER),
    "mirostat": (("0",), _NO_SAMPLER),
    "dynatemp-range": (("0", "0.0"), _NO_SAMPLER),
    "quantization-bit": (("0",), "use --quantization int8 or int4"),
    "device-map": (("auto", "cpu"), "this build computes on the CPU: use auto, or leave it out"),
}
REFUSED = {
    "controller-address": "there is no controller: one process serves, put a load balancer in front of several",
    "worker-address": "there is no controller: one process serves, put a load balancer in front of several",
    "metrics-port": "metrics are at /metrics of the same port: leave it out",
    "ssl-keyfile": "penstock speaks plain HTTP: put a reverse proxy with TLS in front",
    "ssl-certfile": "penstock speaks plain HTTP: put a reverse proxy with TLS in front",
    "max-input-length": "prompts are bounded with answers: use --max-model-len",
    "max-input-tokens": "prompts are bounded with answers: use --max-model-len",
    "ssl-key-file": "penstock speaks plain HTTP: put a reverse proxy with TLS in front",
    "ssl-cert-file": "penstock speaks plain HTTP: put a reverse proxy with TLS in front",
    "prometheus-port": "metrics are at /metrics of the same port: leave it out",
    "otlp-service-name": "set OTEL_SERVICE_NAME in the environment",
    "ngrok": "penstock opens no tunnels: put one in front",
    "ngrok-authtoken": "penstock opens no tunnels: put one in front",
    "ngrok-edge": "penstock opens no tunnels: put one in front",
    "uds": "penstock listens on TCP: use --host and --port",
    "headless": "one process serves: leave it out",
    "config": "options come from flags and PENSTOCK_… in the environment",
    "log-config-file": "use --log-level and --log-format",
    "log-file": "logs go to stderr: send it to a file",
    "enable-log-outputs": "answers are not logged: leave it out",
    "result-path": "answers are not logged: leave it out",
    "middleware": "no code is taken from flags: put a proxy in front",
    "logits-processors": "no code is taken from flags: leave it out",
    "return-tokens-as-token-ids": "requests say it: return_tokens_as_token_ids",
    "enable-force-include-usage": "requests say it: stream_options.include_usage",
    "enable-tokenizer-info-endpoint": "use /tokenize and /detokenize",
    "calculate-kv-scales": "keys and values are kept in floats: leave it out",
    "kv-sharing-fast-prefill": "it belongs to models that are not there yet: leave it out",
    "spec-method": _NO_SPECULATION,
    "spec-model": _NO_SPECULATION,
    "spec-tokens": _NO_SPECULATION,
    "spec-type": _NO_SPECULATION,
    "spec-draft-n": _NO_SPECULATION,
    "draft-max": _NO_SPECULATION,
    "model-draft": _NO_SPECULATION,
    "tokenizer-config-path": "use --tokenizer DIR",
    "rope-factor": "it belongs to the checkpoint: use --hf-overrides",
    "rope-freq-base": "it belongs to the checkpoint: use --hf-overrides",
    "rope-freq-scale": "it belongs to the checkpoint: use --hf-overrides",
    "yarn-ext-factor": "it belongs to the checkpoint: use --hf-overrides",
    "override-kv": "it belongs to the checkpoint: use --hf-overrides",
    "lora": "give it a name, by which requests ask for it: --adapters NAME=DIR",
    "lora-scaled": "give it a name, by which requests ask for it: --adapters NAME=DIR",
    "lora-init-without-apply": "adapters are asked for by name: use --adapters NAME=DIR",
    "ckpt-dir": "use --adapters NAME=DIR, or --model for a whole checkpoint",
    "json-schema": "requests say it: response_format, or json_schema",
    "grammar": "requests say it: grammar",
    "grammar-file": "requests say it: grammar",
    "logit-bias": "requests say it: logit_bias",
    "special": "requests say it: skip_special_tokens",
    "samplers": "the order of samplers is fixed: leave it out",
    "context-shift": "an answer ends with the context: leave it out",
    "truncation-strategy": "requests say it: truncate_prompt_tokens",
    "slot-save-path": "KV caches are not written to disk: leave it out",
    "path": "the page belongs to the server: --disable-dialect page switches it off",
    "no-prefill-assistant": "a last message of the assistant is gone on with: leave it out",
    "spm-infill": "these models are not trained to fill text in: leave it out",
    "rerank": "there is no reranking: leave it out",
    "mmproj": "these models read text: leave it out",
    "offline": "set HF_HUB_OFFLINE=1 in the environment",
    "hf-token": "set HF_TOKEN in the environment",
    "hf-file": "fetch it with `penstock download REPO FILE`, then --model FILE",
    "model-url": "fetch it first, then --model FILE",
    "template": "the checkpoint's template is used: --chat-template FILE, or the name of a built-in one",
    "template-type": "the checkpoint's template is used: --chat-template FILE, or the name of a built-in one",
    "system": "requests bring their system message",
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
    for name, why in REFUSED.items():
        parser.option(name, argparse.SUPPRESS, type=only((), why), bare="true")
    teach(parser, BARE, HARMLESS, SHORT, ONLY)
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
