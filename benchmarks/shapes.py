"""Shapes of real models, some with fewer layers, and what their tensors are called in Hugging Face's layout."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

Config = dict[str, Any]

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "attention_bias": False, "mlp_bias": False}
SHAPES: dict[str, Config] = {
    "llama-3.2-1b": {
        **LLAMA, "hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "rope_theta": 5e5, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072, "tie_word_embeddings": True,
    },
    "qwen2.5-0.5b": {
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 896, "num_hidden_layers": 24,
        "intermediate_size": 4864, "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936,
        "rope_theta": 1e6, "rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "tie_word_embeddings": True,
    },
    "gpt2-124m": {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 768, "n_layer": 12, "n_head": 12,
        "n_positions": 1024, "n_ctx": 1024, "vocab_size": 50257, "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True,
    },
    "qwen3-0.6b": {  # heads of 128
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_size": 1024, "num_hidden_layers": 28,
        "intermediate_size": 3072, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "vocab_size": 151936, "rope_theta": 1e6, "rms_norm_eps": 1e-6, "max_position_embeddings": 40960,
        "tie_word_embeddings": True, "attention_bias": False,
    },
    "gemma-2b-4l": {  # heads of 256; 4 of 18 layers
        "model_type": "gemma", "architectures": ["GemmaForCausalLM"], "hidden_size": 2048, "num_hidden_layers": 4,
        "intermediate_size": 16384, "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256,
        "vocab_size": 256000, "rope_theta": 1e4, "rms_norm_eps": 1e-6, "max_position_embeddings": 8192,
        "tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
    },
    "llama-2-7b-4l": {  # 4 of 32 layers
        **LLAMA, "hidden_size": 4096, "num_hidden_layers": 4, "intermediate_size": 11008, "num_attention_heads": 32,
        "num_key_value_heads": 32, "head_dim": 128, "vocab_size": 32000, "rope_theta": 1e4, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096, "tie_word_embeddings": False,
    },
    "qwen3-30b-a3b-2l": {  # a mixture of 128 experts; 2 of 48 layers
        "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 2048,
        "num_hidden_layers": 2, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts": 128,
        "num_experts_per_tok": 8, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
        "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151936, "rope_theta": 1e6,
        "rms_norm_eps": 1e-6, "max_position_embeddings": 40960, "tie_word_embeddings": False, "attention_bias": False,
    },
    "tiny": {
        **LLAMA, "hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 512, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 4096, "rope_theta": 1e4, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096, "tie_word_embeddings": True,
    },
}  # fmt: skip
COMMON = {"hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16", "use_cache": True}


def config_of(shape: str) -> Config:
    """What goes into config.json."""
    config = {**COMMON, **SHAPES[shape]}
    if config["model_type"] == "gpt2":
        del config["hidden_act"]
    return config


def context_of(config: Config) -> int:
    return int(config.get("max_position_embeddings") or config["n_positions"])


def tensors(config: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors, in the order of the file."""
    yield from _gpt2(config) if config["model_type"] == "gpt2" else _llama_like(config)


def _llama_like(config: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inter = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    widths = {"q": config["num_attention_heads"] * head, "k": config["num_key_value_heads"] * head}
    widths["v"] = widths["k"]
    kind = config["model_type"]
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        yield f"{layer}.input_layernorm.weight", (hidden,)
        for name, width in widths.items():
            yield f"{layer}.self_attn.{name}_proj.weight", (width, hidden)
            if kind == "qwen2":
                yield f"{layer}.self_attn.{name}_proj.bias", (width,)
        if kind in ("qwen3", "qwen3_moe"):
            yield f"{layer}.self_attn.q_norm.weight", (head,)
            yield f"{layer}.self_attn.k_norm.weight", (head,)
        yield f"{layer}.self_attn.o_proj.weight", (hidden, widths["q"])
        yield f"{layer}.post_attention_layernorm.weight", (hidden,)
        if kind != "qwen3_moe":
            yield from _mlp(f"{layer}.mlp", hidden, inter)
            continue
        yield f"{layer}.mlp.gate.weight", (config["num_experts"], hidden)
        for e in range(config["num_experts"]):
            yield from _mlp(f"{layer}.mlp.experts.{e}", hidden, config["moe_intermediate_size"])
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden)


def _mlp(at: str, hidden: int, inter: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{at}.gate_proj.weight", (inter, hidden)
    yield f"{at}.up_proj.weight", (inter, hidden)
    yield f"{at}.down_proj.weight", (hidden, inter)


def _gpt2(config: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden = config["n_embd"]
    yield "transformer.wte.weight", (config["vocab_size"], hidden)
    yield "transformer.wpe.weight", (config["n_positions"], hidden)
    for i in range(config["n_layer"]):
        layer = f"transformer.h.{i}"
        for norm in ("ln_1", "ln_2"):
            yield f"{layer}.{norm}.weight", (hidden,)
            yield f"{layer}.{norm}.bias", (hidden,)
        for name, inputs, outputs in (
            ("attn.c_attn", hidden, 3 * hidden), ("attn.c_proj", hidden, hidden),
            ("mlp.c_fc", hidden, 4 * hidden), ("mlp.c_proj", 4 * hidden, hidden),
        ):  # fmt: skip
            yield f"{layer}.{name}.weight", (inputs, outputs)
            yield f"{layer}.{name}.bias", (outputs,)
    yield "transformer.ln_f.weight", (hidden,)
    yield "transformer.ln_f.bias", (hidden,)


def is_table(name: str, config: Config) -> bool:
    """Whether a step only gathers rows of this tensor (a tied embedding is read whole, as the head)."""
    return name.endswith("wpe.weight") or ("embed_tokens" in name and not config["tie_word_embeddings"])


def _share_of_experts(config: Config, name: str, experts: float) -> float:
    return experts / config["num_experts"] if ".experts." in name else 1.0


def flops_per_token(config: Config, head: bool) -> float:
    """Two for each weight that a token is multiplied with; those of the head on top for a token that samples."""
    total = 0.0
    for name, shape in tensors(config):
        if len(shape) != 2 or "wpe" in name:
            continue
        if "embed_tokens" in name or "wte" in name or "lm_head" in name:
            if head and not is_table(name, config):
                total += prod(shape)
            continue
        total += prod(shape) * _share_of_experts(config, name, config.get("num_experts_per_tok", 0))
    return 2 * total


def read_share(config: Config, streams: int) -> float:
    """The share of the weights that a step of ``streams`` rows reads: of a mixture only the experts that are chosen,
    as many as independent equal choices would touch on average."""
    experts = config.get("num_experts", 0)
    if not experts:
        return 1.0
    chosen = experts * (1 - (1 - config["num_experts_per_tok"] / experts) ** streams)
    sizes = [(name, prod(shape)) for name, shape in tensors(config) if not is_table(name, config)]
    return sum(n * _share_of_experts(config, name, chosen) for name, n in sizes) / sum(n for _, n in sizes)
