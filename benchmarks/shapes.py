"""Random-weight checkpoints of real shapes: speed and memory mean something, the text does not.

Written with numpy alone, a tensor at a time, in Hugging Face's layout; no tokenizer, since work is given as token ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.2-1b": {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 2048, "num_hidden_layers": 16,
        "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
        "vocab_size": 128256, "rope_theta": 5e5, "rms_norm_eps": 1e-5, "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
    },
    "qwen2.5-0.5b": {
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 896, "num_hidden_layers": 24,
        "intermediate_size": 4864, "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936,
        "rope_theta": 1e6, "rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "tie_word_embeddings": True,
    },
    "tiny": {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 256, "num_hidden_layers": 4,
        "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 4096,
        "rope_theta": 1e4, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "tie_word_embeddings": True,
    },
}  # fmt: skip
COMMON = {"hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16", "use_cache": True}


def tensors(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors of a llama or qwen2 checkpoint with tied embeddings."""
    hidden, inter = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    widths = {"q": config["num_attention_heads"] * head, "k": config["num_key_value_heads"] * head}
    widths["v"] = widths["k"]
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        yield f"{layer}.input_layernorm.weight", (hidden,)
        for name, width in widths.items():
            yield f"{layer}.self_attn.{name}_proj.weight", (width, hidden)
            if config["model_type"] == "qwen2":
                yield f"{layer}.self_attn.{name}_proj.bias", (width,)
        yield f"{layer}.self_attn.o_proj.weight", (hidden, widths["q"])
        yield f"{layer}.post_attention_layernorm.weight", (hidden,)
        yield f"{layer}.mlp.gate_proj.weight", (inter, hidden)
        yield f"{layer}.mlp.up_proj.weight", (inter, hidden)
        yield f"{layer}.mlp.down_proj.weight", (hidden, inter)
    yield "model.norm.weight", (hidden,)


def make(name: str, folder: Path) -> Path:
    """Write the checkpoint ``name`` under ``folder`` unless it is there already."""
    target = folder / name
    if (target / "config.json").exists():
        return target
    target.mkdir(parents=True, exist_ok=True)
    config = {**COMMON, **SHAPES[name]}
    header: dict[str, Any] = {}
    offset = 0
    for tensor, shape in tensors(config):
        size = 2 * int(np.prod(shape))
        header[tensor] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(1)
    with (target / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, shape in tensors(config):
            values = np.ones(shape) if len(shape) == 1 else rng.standard_normal(shape, np.float32) * 0.02
            file.write(values.astype(ml_dtypes.bfloat16).tobytes())
    (target / "config.json").write_text(json.dumps(config, indent=1))
    return target


def weight_bytes(config: dict[str, Any]) -> int:
    """Bytes of weights that one decoded token reads (bf16; the tied embedding once, as the head)."""
    return sum(2 * int(np.prod(shape)) for _, shape in tensors(config))


def body_params(config: dict[str, Any]) -> int:
    """Multiply-accumulates per prompt token: all matrices but embedding and head."""
    return sum(int(np.prod(s)) for n, s in tensors(config) if len(s) == 2 and "embed" not in n)
