"""Composed, frozen configuration. Flat keyword arguments (vLLM's names) are sorted into it by :func:`from_kwargs`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from penstock.errors import ConfigError, nearest
from penstock.foreign import SYNONYMS, device, takes

DTYPES = {"auto": "auto", "float32": "f32", "float": "f32", "float16": "f16", "half": "f16", "bfloat16": "bf16"}
KV_DTYPES = {**DTYPES, "fp16": "f16", "bf16": "bf16", "fp32": "f32", "int8": "i8", "q8_0": "i8"}
ACTIVATIONS = ("auto", "float", "int8")
WATERMARK_GAMMA, WATERMARK_DELTA = 0.5, 2.0  # as TGI's
BLOCK_SIZES = (16, 32, 64, 128, 256)
ComputeType = Literal["auto", "f32", "f16", "bf16"]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which checkpoint, and how it is read. ``model`` None is the embedded model.

    ``dtype``: the arithmetic of linears. ``auto`` takes bf16 where weights are bf16 and the CPU has it, else float32;
    ``float32`` keeps activations exact whatever the weights' type, and so does ``float16``, but for quantised weights,
    which are computed as with ``auto``. Weights stay in the type of the file.
    ``trust_remote_code`` is accepted and changes nothing: no code of a checkpoint is ever run.
    """

    model: str | None = None
    tokenizer: str | None = None
    skip_tokenizer_init: bool = False
    dtype: str = "auto"
    max_model_len: int | None = None
    quantization: str | None = None
    revision: str | None = None
    download_dir: str | None = None
    served_model_name: str | None = None
    generation_config: str = "auto"
    chat_template: str | None = None
    trust_remote_code: bool = False
    hf_overrides: Mapping[str, Any] | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """The paged KV cache. ``kv_cache_memory`` bytes at most (None: a share ``memory_utilization`` of what is free now).

    Only address space is reserved at start; memory is taken as the cache fills.
    """

    block_size: int = 32
    kv_cache_dtype: str = "auto"
    kv_cache_memory: int | None = None
    memory_utilization: float = 0.4
    enable_prefix_caching: bool = True


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Bounds of a step: sequences, and tokens (prefill chunks and decodes share one budget).

    ``max_waiting`` requests and ``max_queued_tokens`` tokens may queue; more are refused.
    ``prefill_chunk`` bounds what one sequence may compute in a step (0: the budget does), for even token latencies.
    """

    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    max_logits_rows: int = 256
    max_waiting: int = 4096
    max_queued_tokens: int = 1 << 22
    prefill_chunk: int = 0


@dataclass(frozen=True, slots=True)
class ExecutorConfig:
    """Who runs the program. ``mode`` static: one call a step; dynamic: op by op. ``threads`` 0: all cores.

    ``activation``: inputs of quantised weights are kept as they are (``float``), or quantised too, by row and group
    (``int8``: faster, about as exact as 8-bit weights); ``auto`` takes int8 where the CPU multiplies bytes fast.
    """

    executor: Literal["auto", "native", "torch"] = "auto"
    mode: Literal["static", "dynamic"] = "static"
    threads: int = 0
    isa: str | None = None
    activation: str = "auto"


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """LoRA and prefix adapters. ``adapters``: names and folders of those loaded at start; more come at run time.

    ``max_loras`` and ``max_lora_rank`` bound the LoRAs loaded at once; ``max_prefix_share`` how much of the KV cache
    prefixes may pin.
    """

    enable_lora: bool = True
    max_loras: int = 8
    max_lora_rank: int = 64
    max_prefix_share: float = 0.5
    adapters: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class WatermarkConfig:
    """What requests with ``watermark`` get: ``watermark_delta`` more on the logits of a share ``watermark_gamma``."""

    watermark_gamma: float = WATERMARK_GAMMA
    watermark_delta: float = WATERMARK_DELTA


@dataclass(frozen=True, slots=True)
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    watermark: WatermarkConfig = field(default_factory=WatermarkConfig)


def from_kwargs(kwargs: Mapping[str, Any]) -> Config:
    """Sort flat keyword arguments into a checked :class:`Config`.

    Raises ``ConfigError`` for an unknown name (with the nearest known one) or a value out of range.
    """
    types: dict[str, type[Any]] = {
        "model": ModelConfig, "cache": CacheConfig, "scheduler": SchedulerConfig, "executor": ExecutorConfig,
        "adapter": AdapterConfig, "watermark": WatermarkConfig,
    }  # fmt: skip
    parts: dict[str, dict[str, Any]] = {part: {} for part in types}
    owner = {f.name: part for part, cls in types.items() for f in fields(cls)}
    for given, value in kwargs.items():
        name = SYNONYMS.get(given, given)
        if takes(name, value):
            continue
        if name not in owner:
            raise ConfigError(f"unknown option '{given}'{nearest(given, [*owner, *SYNONYMS])}")
        parts[owner[name]][name] = _plain(name, value)
    config = Config(**{part: types[part](**values) for part, values in parts.items()})
    _check(config)
    return config


def _plain(name: str, value: Any) -> Any:
    """Accept what users pass where a plain value is meant: ``torch.float16``, ``Path``, upper-case methods."""
    if name in ("dtype", "kv_cache_dtype") and value is not None:
        return str(value).removeprefix("torch.").lower()
    if name in ("model", "tokenizer", "download_dir", "chat_template") and isinstance(value, Path):
        return str(value)
    if name == "adapters" and value is not None:
        return _named_paths(value)
    if name == "quantization" and isinstance(value, str):
        return value.lower()
    if name == "executor" and value is not None:
        return device(value)
    return value


def _named_paths(value: Any) -> dict[str, str]:
    """``{"name": path}``; also vLLM's ``["name=path", {"name": …, "path": …}]``, and a text of such with commas."""
    if isinstance(value, Mapping):
        return {str(name): str(path) for name, path in value.items()}
    items = value.split(",") if isinstance(value, str) else value
    found: dict[str, str] = {}
    for item in items if isinstance(items, list | tuple) else [items]:
        if isinstance(item, Mapping) and {"name", "path"} <= item.keys():
            name, path = str(item["name"]), str(item["path"])
        elif isinstance(item, str) and "=" in item:
            name, path = item.split("=", 1)
        else:
            raise ConfigError(f"adapters: {item!r} is not NAME=FOLDER")
        if name in found:
            raise ConfigError(f"adapters: '{name}' is given twice")
        found[name] = path
    return found


def _check(config: Config) -> None:
    def need(ok: bool, name: str, value: object, want: str) -> None:
        if not ok:
            raise ConfigError(f"{name} must be {want}, got {value!r}")

    model, cache, sched, execu = config.model, config.cache, config.scheduler, config.executor
    need(model.dtype in DTYPES, "dtype", model.dtype, f"one of {', '.join(DTYPES)}")
    need(
        model.max_model_len is None or _whole(model.max_model_len, 1, 1 << 24),
        "max_model_len", model.max_model_len, "a whole number of tokens from 1 to 16777216",
    )  # fmt: skip
    need(cache.block_size in BLOCK_SIZES, "block_size", cache.block_size, f"one of {BLOCK_SIZES}")
    need(cache.kv_cache_dtype in KV_DTYPES, "kv_cache_dtype", cache.kv_cache_dtype, f"one of {', '.join(KV_DTYPES)}")
    need(
        cache.kv_cache_memory is None or _whole(cache.kv_cache_memory, 1, 1 << 50),
        "kv_cache_memory", cache.kv_cache_memory, "a number of bytes",
    )  # fmt: skip
    need(
        isinstance(cache.memory_utilization, int | float) and 0 < cache.memory_utilization <= 1,
        "memory_utilization", cache.memory_utilization, "a share above 0, at most 1",
    )  # fmt: skip
    for name, high in (
        ("max_num_seqs", 4096), ("max_num_batched_tokens", 1 << 17),
        ("max_logits_rows", 1 << 14), ("max_waiting", 1 << 24), ("max_queued_tokens", 1 << 40),
    ):  # fmt: skip
        need(_whole(getattr(sched, name), 1, high), name, getattr(sched, name), f"a whole number from 1 to {high}")
    need(
        sched.max_logits_rows >= sched.max_num_seqs,
        "max_logits_rows", sched.max_logits_rows, f"at least max_num_seqs ({sched.max_num_seqs})",
    )  # fmt: skip
    need(
        _whole(sched.prefill_chunk, 0, 1 << 17), "prefill_chunk", sched.prefill_chunk, "a number of tokens, 0 for none"
    )
    need(
        sched.max_num_batched_tokens >= sched.max_num_seqs,
        "max_num_batched_tokens", sched.max_num_batched_tokens, f"at least max_num_seqs ({sched.max_num_seqs})",
    )  # fmt: skip
    need(execu.executor in ("auto", "native", "torch"), "executor", execu.executor, "auto, native or torch")
    adapter = config.adapter
    need(isinstance(adapter.enable_lora, bool), "enable_lora", adapter.enable_lora, "true or false")
    need(_whole(adapter.max_loras, 1, 1024), "max_loras", adapter.max_loras, "a whole number from 1 to 1024")
    need(
        _whole(adapter.max_lora_rank, 1, 4096), "max_lora_rank", adapter.max_lora_rank, "a whole number from 1 to 4096"
    )
    need(
        isinstance(adapter.max_prefix_share, int | float) and 0 < adapter.max_prefix_share < 1,
        "max_prefix_share", adapter.max_prefix_share, "a share above 0 and below 1",
    )  # fmt: skip
    gamma, delta = config.watermark.watermark_gamma, config.watermark.watermark_delta
    need(isinstance(gamma, int | float) and 0 < gamma < 1, "watermark_gamma", gamma, "a share above 0 and below 1")
    need(isinstance(delta, int | float) and 0 < delta <= 100, "watermark_delta", delta, "a number above 0, at most 100")
    need(execu.mode in ("static", "dynamic"), "mode", execu.mode, "static or dynamic")
    need(execu.activation in ACTIVATIONS, "activation", execu.activation, f"one of {', '.join(ACTIVATIONS)}")
    need(_whole(execu.threads, 0, 1024), "threads", execu.threads, "a whole number from 0 (all cores) to 1024")


def _whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
