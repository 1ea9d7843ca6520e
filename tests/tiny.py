"""A tiny random checkpoint with a real byte-level tokenizer: what the whole engine can be tested on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = ["the cat sat on the mat", "hello world, how are you", "你好世界", "浙江的省会在哪里"] * 4


def config(**changes: Any) -> dict[str, Any]:
    values = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 320, "hidden_size": 48,
        "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 12, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "hidden_act": "silu",
        "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": 2, "torch_dtype": "float32",
    }  # fmt: skip
    return {**values, **changes}


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokens = [AddedToken(t, special=True, normalized=False) for t in SPECIALS]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=tokens, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def make(folder: Path, *, tokenizer: bool = True, seed: int = 0, scale: float = 0.35, **changes: Any) -> Path:
    """Write the checkpoint into ``folder``. Large random weights, so that tokens vary."""
    folder.mkdir(parents=True, exist_ok=True)
    values = config(**changes)
    rng = np.random.default_rng(seed)
    h, inter, head = values["hidden_size"], values["intermediate_size"], values["head_dim"]
    q, kv = values["num_attention_heads"] * head, values["num_key_value_heads"] * head
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (values["vocab_size"], h),
        "model.norm.weight": (h,),
    }
    for i in range(values["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        shapes |= {
            layer + "input_layernorm.weight": (h,), layer + "post_attention_layernorm.weight": (h,),
            layer + "self_attn.q_proj.weight": (q, h), layer + "self_attn.k_proj.weight": (kv, h),
            layer + "self_attn.v_proj.weight": (kv, h), layer + "self_attn.o_proj.weight": (h, q),
            layer + "mlp.gate_proj.weight": (inter, h), layer + "mlp.up_proj.weight": (inter, h),
            layer + "mlp.down_proj.weight": (h, inter),
        }  # fmt: skip
    tensors = {
        name: (np.ones(s) if len(s) == 1 else rng.standard_normal(s) * scale).astype(np.float32)
        for name, s in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    if tokenizer:
        write_tokenizer(folder, values["vocab_size"])
    return folder
