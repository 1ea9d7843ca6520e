"""Engine and sampling options of all commands, in one place: the fields of ``penstock.config`` as flags.

A value comes from the flag, else from ``PENSTOCK_<NAME>`` in the environment, else from the defaults.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from penstock.cli.parser import Converter, Parser, json_object, number, size, truth, whole
from penstock.config import (
    DTYPES,
    KV_DTYPES,
    AdapterConfig,
    CacheConfig,
    ExecutorConfig,
    ModelConfig,
    SchedulerConfig,
    WatermarkConfig,
)
from penstock.errors import ConfigError
from penstock.foreign import HARMLESS, ONLY, SYNONYMS

PREFIX = "PENSTOCK_"
GROUPS: dict[str, type] = {
    "model": ModelConfig,
    "executor": ExecutorConfig,
    "KV cache": CacheConfig,
    "scheduler": SchedulerConfig,
    "adapters": AdapterConfig,
    "watermark": WatermarkConfig,
}
HELP = {
    "model": "folder, file, or name on a hub (default: the small embedded model)",
    "tokenizer": "folder, or file, of another tokenizer than the checkpoint's",
    "skip_tokenizer_init": "load no tokenizer: prompts and answers are token ids",
    "dtype": "arithmetic of the linear layers: auto, float32, float16, bfloat16, int8 (default: auto)",
    "max_model_len": "longest sequence, prompt and answer together, e.g. 4096 or 4K (default: the model's)",
    "quantization": "weight format, read from the checkpoint when not given; int8, int4: of what is plain in it",
    "revision": "branch, tag or commit of a model on a hub",
    "download_dir": "where downloads are kept (default: the hub's own cache)",
    "served_model_name": "name under which the model is served (default: as given to --model)",
    "generation_config": "auto: sampling defaults of the checkpoint; vllm: none of them",
    "chat_template": "file with a Jinja chat template, or the name of a built-in one",
    "trust_remote_code": "accepted and without effect: code of a checkpoint is never run",
    "hf_overrides": "JSON object laid over the checkpoint's config.json",
    "seed": "seed of requests that bring none",
    "block_size": "tokens of a KV block: 16, 32, 64, 128 or 256 (default: 32)",
    "kv_cache_dtype": "type of the KV cache: auto, float32, float16, bfloat16 (default: auto)",
    "kv_cache_memory": "most memory for the KV cache, e.g. 2GiB (default: a share of what is free)",
    "memory_utilization": "that share (default: 0.4)",
    "enable_prefix_caching": "keep the KV cache of common beginnings (default: on)",
    "max_num_seqs": "most sequences in one step (default: 64)",
    "max_num_batched_tokens": "most tokens in one step (default: 512)",
    "max_logits_rows": "most rows of logits in one step (default: 256)",
    "max_waiting": "most requests in the queue (default: 4096)",
    "max_queued_tokens": "most tokens in the queue (default: 4M)",
    "prefill_chunk": "most prompt tokens of one sequence in a step; 0: no bound but the step's (default: 0)",
    "executor": "who computes: auto, native, torch (default: auto)",
    "mode": "static: the planned program in one call; dynamic: op by op (default: static)",
    "threads": "threads; 0: all usable cores (default: 0)",
    "enable_lora": "allow LoRA adapters (default: on)",
    "max_loras": "most LoRA adapters loaded at once (default: 8)",
    "max_lora_rank": "largest rank of a LoRA adapter (default: 64)",
    "max_prefix_share": "share of the KV cache that prefix adapters may take (default: 0.5)",
    "adapters": "adapters to load, e.g. sql=./sql-lora,style=./prefix",
    "watermark_gamma": "share of the vocabulary that a watermark favours (default: 0.5)",
    "watermark_delta": "by how much, on the logits (default: 2)",
    "activation": "inputs of quantised weights: auto, float (exact), int8 (fast)",
    "isa": "instruction set: generic, avx2, avx512, amx … (default: the best one this CPU has)",
}
METAVARS = {
    "model": "MODEL", "tokenizer": "DIR", "download_dir": "DIR", "chat_template": "FILE", "hf_overrides": "JSON",
    "kv_cache_memory": "SIZE", "memory_utilization": "SHARE", "dtype": "TYPE", "kv_cache_dtype": "TYPE",
    "adapters": "NAME=DIR,…", "max_prefix_share": "SHARE",
    "watermark_gamma": "SHARE", "watermark_delta": "X",
}  # fmt: skip
SHORT = {"model": "-m", "max_model_len": "-c", "threads": "-t"}
OTHER_ENGINES = {
    "model": ("model-dir", "hf-repo", "model-tag", "-hf"),
    "max_model_len": (
        "ctx-size",
        "context-length",
        "max-total-tokens",
        "max-seq-len",
        "session-len",
        "total-max-length",
    ),
    "threads": ("intra-op-threads", "num-cpu-threads", "-th"),
    "quantization": ("quantize", "quant-type", "quant-method"),
    "kv_cache_memory": ("cache-memory",),
    "memory_utilization": (
        "mem-fraction-static",
        "cuda-memory-fraction",
        "cache-max-entry-count",
        "kv-cache-free-gpu-memory-fraction",
    ),
    "kv_cache_dtype": ("cache-type-k", "cache-type-v", "-ctk", "-ctv"),
    "max_num_seqs": ("parallel", "max-running-requests", "max-concurrent-requests", "-np"),
    "max_num_batched_tokens": ("max-batch-prefill-tokens", "ubatch-size", "-ub"),
    "prefill_chunk": ("chunked-prefill-size", "long-prefill-token-threshold"),
    "enable_prefix_caching": ("prefix-caching", "cache-prompt"),
    "chat_template": ("chat-template-file", "conv-template"),
    "served_model_name": ("alias", "model-name", "model-names"),
    "tokenizer": ("tokenizer-path", "tokenizer-name-or-path", "tiktoken"),
}
"""Other engines' flags for the same notions (vLLM's other names are in ``penstock.foreign.SYNONYMS``)."""

SHORTER = {
    "tensor_parallel_size": ("tp", "tp-size", "num-gpus", "num-shard"), "pipeline_parallel_size": ("pp", "pp-size"),
    "data_parallel_size": ("dp", "dp-size"), "attn_implementation": ("attn-impl",), "load_in_8bit": ("load-8bit",),
}  # fmt: skip
FLAGS_WITHOUT_VALUE = frozenset({
    "enforce_eager", "disable_log_stats", "enable_chunked_prefill", "use_v2_block_manager", "enable_expert_parallel",
    "disable_custom_all_reduce", "async_scheduling", "disable_async_output_proc", "disable_cascade_attn",
    "use_tqdm_on_load", "disable_sliding_window", "enable_sleep_mode", "enable_prompt_embeds", "load_in_8bit",
    "load_in_4bit", "low_cpu_mem_usage", "disable_mm_preprocessor_cache",
})  # fmt: skip


def engine_options(parser: Parser, leave_out: Collection[str] = ()) -> None:
    """Add every engine option but those in ``leave_out``, grouped as in ``penstock.config``."""
    for title, cls in GROUPS.items():
        group = parser.add_argument_group(title)
        for each in fields(cls):
            if each.name not in leave_out:
                _add(parser, group, each)
    for name in sorted({*HARMLESS, *ONLY}):
        if name in FLAGS_WITHOUT_VALUE:
            parser.switch(name, argparse.SUPPRESS, synonyms=SHORTER.get(name, ()))
        else:
            parser.option(name, argparse.SUPPRESS, type=_plain, synonyms=SHORTER.get(name, ()))
    parser.option("n-gpu-layers", argparse.SUPPRESS, type=_gpu_layers, synonyms=("gpu-layers", "-ngl"))


def _add(parser: Parser, group: Any, each: Field[Any]) -> None:
    name = each.name
    synonyms = [s for s, target in SYNONYMS.items() if target == name] + list(OTHER_ENGINES.get(name, ()))
    convert = converter(each)
    if convert is truth:
        parser.switch(name, HELP[name], group=group, synonyms=synonyms)
        return
    more: dict[str, Any] = {"metavar": METAVARS.get(name, "N" if convert in (whole, size) else "VALUE")}
    parser.option(name, HELP[name], short=SHORT.get(name), group=group, synonyms=synonyms, type=convert, **more)


def converter(each: Field[Any]) -> Converter:
    """How the text of a flag becomes the value of a field, by the field's declared type."""
    kind = str(each.type).removesuffix(" | None")
    if each.name == "kv_cache_memory":
        return size
    if each.name in ("dtype", "kv_cache_dtype"):
        return _dtype
    if each.name == "chat_template":
        return _template
    return {"bool": truth, "int": whole, "float": number, "Mapping[str, Any]": json_object}.get(kind, str)


def engine_kwargs(args: argparse.Namespace) -> dict[str, Any]:
    """What the flags and the environment say, as keyword arguments of ``LLM`` and ``AsyncLLM``."""
    given = {name: value for name, (value, _) in origins(args).items()}
    given |= {name: getattr(args, name) for name in (*HARMLESS, *ONLY) if hasattr(args, name)}
    return given


def origins(args: argparse.Namespace) -> dict[str, tuple[Any, str]]:
    """Every engine option that was set, with where its value comes from (``--flag`` or ``PENSTOCK_…``)."""
    found: dict[str, tuple[Any, str]] = {}
    for cls in GROUPS.values():
        for each in fields(cls):
            variable = PREFIX + each.name.upper()
            text = os.environ.get(variable, "")
            if hasattr(args, each.name):
                found[each.name] = (getattr(args, each.name), "--" + each.name.replace("_", "-"))
            elif text:
                try:
                    found[each.name] = (converter(each)(text), variable)
                except argparse.ArgumentTypeError as error:
                    raise ConfigError(f"{variable}: {error}") from None
    return found


def take_positional_model(args: argparse.Namespace) -> None:
    """``penstock serve MODEL`` means ``--model MODEL``."""
    place = getattr(args, "place", None)
    if place is None:
        return
    if getattr(args, "model", place) != place:
        raise ConfigError(f"two models are named: '{place}' and --model '{args.model}'; give one")
    args.model = place


def _dtype(text: str) -> str:
    name = text.lower().removeprefix("torch.")
    short = {"fp32": "float32", "f32": "float32", "fp16": "float16", "f16": "float16", "bf16": "bfloat16"}
    name = short.get(name, name)
    if name not in DTYPES and name not in KV_DTYPES:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(DTYPES)}, got '{text}'")
    return name


def _template(text: str) -> str:
    path = Path(text).expanduser()
    if "{" not in text and "\n" not in text and path.is_file():
        if path.stat().st_size > 1 << 20:
            raise argparse.ArgumentTypeError(f"{text} is larger than 1 MiB, too large for a chat template")
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise argparse.ArgumentTypeError(f"cannot read {text}: {error}") from None
    return text


def _plain(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _gpu_layers(text: str) -> str:
    """llama.cpp's layers on a GPU: they change where is computed, not what, so the CPU takes them and says so."""
    if text not in ("auto", "all") and not text.lstrip("-").isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: must be a number of layers, auto or all")
    if text not in ("0", "auto"):
        logging.getLogger("penstock").warning("-ngl %s: no GPU is used yet, all layers are computed on the CPU", text)
    return text


def environment_names() -> Mapping[str, str]:
    """Every environment variable that sets an engine option, with its option."""
    return {PREFIX + f.name.upper(): f.name for cls in GROUPS.values() for f in fields(cls)}
