"""Writes the trained model as an ordinary HF folder in bfloat16."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from .model import Llama
from .tokens import CHAT_TEMPLATE, END, STOP


def _name(name: str) -> str:
    for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
        name = name.replace(f".{part}", f".self_attn.{part}")
    for part in ("gate_proj", "up_proj", "down_proj"):
        name = name.replace(f".{part}", f".mlp.{part}")
    return "model." + name


def plain_name(name: str) -> str:
    """The trainer's name of a tensor of the folder."""
    return name.removeprefix("model.").replace(".self_attn", "").replace(".mlp.", ".")


def export(model: Llama, tok: Tokenizer, out: Path, facts: dict[str, Any]) -> None:
    """Writes weights, configs, tokenizer and `training.json` into `out`."""
    s = model.s
    eos = [tok.token_to_id(STOP), tok.token_to_id(END)]
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": s.vocab, "hidden_size": s.hidden,
        "intermediate_size": s.mlp, "num_hidden_layers": s.layers, "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads, "head_dim": s.head_dim, "hidden_act": "silu", "max_position_embeddings": s.context,
        "rms_norm_eps": s.eps, "rope_theta": s.theta, "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True,
        "bos_token_id": None, "eos_token_id": eos[0], "pad_token_id": eos[1], "torch_dtype": "bfloat16", "use_cache": True,
        "initializer_range": 0.02,
    }  # fmt: skip
    generation = {"do_sample": False, "eos_token_id": eos, "pad_token_id": eos[1]}
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": None, "eos_token": STOP, "pad_token": END, "unk_token": None,
        "add_bos_token": False, "clean_up_tokenization_spaces": False, "model_max_length": s.context,
        "chat_template": CHAT_TEMPLATE,
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    for name, data in (
        ("config", config),
        ("generation_config", generation),
        ("tokenizer_config", tokenizer),
        ("training", facts),
    ):
        (out / f"{name}.json").write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    tok.save(str(out / "tokenizer.json"), pretty=False)
    tensors = {_name(n): p.detach().to(torch.bfloat16).contiguous() for n, p in model.named_parameters()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
