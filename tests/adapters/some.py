"""Adapters for tests: of golden fixtures, and random ones written as PEFT writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from penstock import LLM, SamplingParams
from penstock.executors.base import Adapter
from penstock.models.passes.adapters import linear_shapes
from penstock.models.program import Program
from penstock.types import RequestOutput
from tests.helpers import golden

GREEDY = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)


def base_of(fixture: str) -> Path:
    """The checkpoint that a golden adapter is for."""
    meta = json.loads((golden(fixture) / "meta.json").read_text())
    return golden(Path(meta["base"]).parts[-2]) / "ckpt"


def open_llm(model: Path, executor: str = "native", **options: Any) -> LLM:
    wanted = {
        "skip_tokenizer_init": True, "dtype": "float32", "threads": 1, "kv_cache_memory": 1 << 24,
        "max_model_len": 256, "executor": executor,
    }  # fmt: skip
    return LLM(str(model), **{**wanted, **options})


def tokens(outputs: Sequence[RequestOutput]) -> list[list[int]]:
    return [list(output.outputs[0].token_ids) for output in outputs]


def generate(llm: LLM, prompts: Sequence[Sequence[int]], adapter: Any = None, n: int = 24) -> list[list[int]]:
    params = SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True)
    return tokens(llm.generate(prompt_token_ids=[list(p) for p in prompts], sampling_params=params, adapter=adapter))


def factors(program: Program, targets: Sequence[str] | None = None, rank: int = 4, seed: int = 0) -> Adapter:
    """Random factors for some (or all) of the program's linears, strong enough to change every token."""
    rng = np.random.default_rng(seed)
    shapes = linear_shapes(program)
    return {
        name: (
            (rng.standard_normal((rank, shapes[name][1])) * 0.3).astype(np.float32),
            (rng.standard_normal((shapes[name][0], rank)) * 0.3).astype(np.float32),
            0.5 + seed % 3,
        )
        for name in targets or shapes
    }


def write_peft(
    folder: Path, tensors: Mapping[str, np.ndarray[Any, Any]], config: Mapping[str, Any] | None = None
) -> Path:
    """An adapter of PEFT's, with the keys of ``config`` over those of a plain LoRA of rank 2."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps({**plain, **(config or {})}))
    save_file(
        {name: np.ascontiguousarray(array) for name, array in tensors.items()}, folder / "adapter_model.safetensors"
    )
    return folder


def q_lora(layers: int = 1, n: int = 96, k: int = 96, rank: int = 2, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Factors of q_proj of the first layers of the golden llama_gqa."""
    rng = np.random.default_rng(seed)
    made: dict[str, np.ndarray[Any, Any]] = {}
    for i in range(layers):
        at = f"base_model.model.model.layers.{i}.self_attn.q_proj"
        made[f"{at}.lora_A.weight"] = rng.standard_normal((rank, k)).astype(np.float32)
        made[f"{at}.lora_B.weight"] = rng.standard_normal((n, rank)).astype(np.float32)
    return made
