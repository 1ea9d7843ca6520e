"""Other engines' names for options: synonyms, those that change nothing here, and those that only some values may have.

Nothing is dropped in silence that could change a result: what is asked for and is not here is refused with a remedy.
"""

from __future__ import annotations

from typing import Any

from penstock.errors import ConfigError

SYNONYMS = {
    "model_path": "model",
    "model_id": "model",
    "model_id_or_path": "model",
    "model_name_or_path": "model",
    "torch_dtype": "dtype",
    "max_length": "max_model_len",
    "kv_cache_memory_bytes": "kv_cache_memory",
    "gpu_memory_utilization": "memory_utilization",
    "num_threads": "threads",
    "device": "executor",
    "lora_modules": "adapters",
}
"""Names that other engines use for a notion that penstock has."""

HARMLESS = frozenset({
    "enforce_eager", "swap_space", "cpu_offload_gb", "disable_log_stats", "enable_chunked_prefill",
    "distributed_executor_backend", "max_seq_len_to_capture", "max_context_len_to_capture", "use_v2_block_manager",
    "disable_custom_all_reduce", "max_logprobs", "compilation_config", "guided_decoding_backend", "async_scheduling",
    "allowed_local_media_path", "limit_mm_per_prompt", "disable_async_output_proc", "disable_cascade_attn",
    "use_tqdm_on_load", "low_cpu_mem_usage", "config_format", "tokenizer_mode", "disable_mm_preprocessor_cache",
})  # fmt: skip
"""What cannot change a result here, whatever its value."""

ONE_DEVICE = "this build runs on one device, others are not there yet: use 1, or leave it out"
NOT_YET = "is not there yet: leave it out"
ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "tensor_parallel_size": ((1,), ONE_DEVICE),
    "pipeline_parallel_size": ((1,), ONE_DEVICE),
    "data_parallel_size": ((1,), ONE_DEVICE),
    "enable_expert_parallel": ((False,), ONE_DEVICE),
    "attn_implementation": (
        ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attn", "flex_attention"),
        "known are eager, sdpa, flash_attention_2 …, which all give the same tokens here: leave it out",
    ),
    "load_format": (("auto", "safetensors", "pt", "hf", "gguf"), "must be auto: the files say what they are"),
    "scheduling_policy": (("fcfs", "priority"), "must be fcfs or priority: both are on, by each request's priority"),
    "task": (("generate", "auto"), "must be generate; for vectors, use LLM.embed"),
    "runner": (("generate", "auto"), "must be generate; for vectors, use LLM.embed"),
    "tokenizer_revision": (("main", "master"), "the tokenizer has the model's revision: use revision"),
    "code_revision": (("main", "master"), "no code of a checkpoint is ever run: leave it out"),
    "disable_sliding_window": ((False,), "the window belongs to the checkpoint: leave it out"),
    "rope_scaling": ((), "it belongs to the checkpoint: use hf_overrides={'rope_scaling': …}"),
    "rope_theta": ((), "it belongs to the checkpoint: use hf_overrides={'rope_theta': …}"),
    "override_generation_config": (
        ({},), "say it with each request, or leave the checkpoint's out: generation_config='vllm'"
    ),
    "num_gpu_blocks_override": ((), "bound the KV cache in bytes instead: use kv_cache_memory"),
    "speculative_config": ((), f"speculative decoding {NOT_YET}"),
    "speculative_model": ((), f"speculative decoding {NOT_YET}"),
    "num_speculative_tokens": ((), f"speculative decoding {NOT_YET}"),
    "kv_transfer_config": ((), f"moving KV caches between engines {NOT_YET}"),
    "enable_sleep_mode": ((False,), f"sleep mode {NOT_YET}"),
    "enable_prompt_embeds": ((False,), f"prompts as embeddings {NOT_YET}"),
    "load_in_8bit": ((False,), "use quantization='int8'"),
    "load_in_4bit": ((False,), "use quantization='int4'"),
    "quantization_config": ((), "use quantization='int8' or 'int4'; a quantised checkpoint says by itself what it is"),
}  # fmt: skip
"""The values that change nothing here (None never does), and what to do instead of others."""


def takes(name: str, value: Any) -> bool:
    """Whether ``name`` is an option of other engines without effect here. ``ConfigError`` where it asks for more."""
    if name not in ONLY:
        return name in HARMLESS
    allowed, why = ONLY[name]
    if value is not None and str(value).lower() not in {str(each).lower() for each in allowed}:
        shown = f"{value!r}"
        raise ConfigError(f"{name}={shown[:80]}: {why}")
    return True


def device(value: Any) -> Any:
    """``device`` as an executor's name: the CPU is where this build computes."""
    text = str(value).lower()
    if text in ("cpu", "-1"):
        return "native"
    if text.partition(":")[0] in ("cuda", "gpu", "xpu", "npu", "mps", "rocm", "tpu") or text.isdecimal():
        raise ConfigError(
            f"device or executor {value!r}: computing on a GPU is not there yet, use cpu, or leave it out"
        )
    return value
