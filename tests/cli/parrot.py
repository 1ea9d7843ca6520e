"""A checkpoint that always says the same: real files for the real engine, and an answer that a test can know.

One layer of zeros, an embedding that is the identity, and a head that is a permutation: the next token is a function
of the last one. Every token of the prompt leads to the first piece, each piece to the next, the last to the end
token (or back to the first).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from penstock.text.bytelevel import char_to_byte

WIDTH = 320
END = "<|end|>"
TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
HELLO = (b" Hello", b", \xe4\xbd", b"\xa0\xe5", b"\xa5\xbd", b" \xf0\x9f", b"\x98\x80", b"!!")
"""`` Hello, 你好 😀!!`` in pieces that split its characters."""


def make_parrot(
    folder: Path, pieces: Sequence[bytes] = HELLO, *, loop: bool = False, context: int = 4096, eos: bool = True
) -> Path:
    """Write the checkpoint to ``folder``. ``loop``: it never ends by itself."""
    folder.mkdir(parents=True, exist_ok=True)
    chars = {byte: char for char, byte in char_to_byte().items()}
    vocab = {chars[byte]: byte for byte in range(256)}
    script = []
    for piece in pieces:
        text = "".join(chars[byte] for byte in piece)
        assert len(piece) > 1
        assert text not in vocab
        script.append(len(vocab))
        vocab[text] = len(vocab)
    end = len(vocab)
    _tokenizer(folder, vocab, end)
    _weights(folder, script, end, loop)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
        "vocab_size": WIDTH, "max_position_embeddings": context, "rms_norm_eps": 1e-6, "hidden_act": "silu",
        "tie_word_embeddings": False, "torch_dtype": "float32", "eos_token_id": end if eos else None,
        "rope_theta": 10000.0,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _tokenizer(folder: Path, vocab: dict[str, int], end: int) -> None:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    special = {"id": end, "content": END, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
               "normalized": False}  # fmt: skip
    content = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [special], "normalizer": None,
        "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END, "chat_template": TEMPLATE}))


def _weights(folder: Path, script: list[int], end: int, loop: bool) -> None:
    following = dict.fromkeys(range(WIDTH), script[0])
    following |= dict(zip(script, [*script[1:], script[0] if loop else end]))
    head = np.zeros((WIDTH, WIDTH), np.float32)
    for token, after in following.items():
        head[after, token] = 10.0
    layer = "model.layers.0."
    shapes = {
        "self_attn.q_proj": (32, WIDTH), "self_attn.k_proj": (16, WIDTH), "self_attn.v_proj": (16, WIDTH),
        "self_attn.o_proj": (WIDTH, 32), "mlp.gate_proj": (32, WIDTH), "mlp.up_proj": (32, WIDTH),
        "mlp.down_proj": (WIDTH, 32),
    }  # fmt: skip
    tensors: dict[str, np.ndarray] = {
        f"{layer}{name}.weight": np.zeros(shape, np.float32) for name, shape in shapes.items()
    }
    for name in (f"{layer}input_layernorm.weight", f"{layer}post_attention_layernorm.weight", "model.norm.weight"):
        tensors[name] = np.ones(WIDTH, np.float32)
    tensors["model.embed_tokens.weight"] = np.eye(WIDTH, dtype=np.float32)
    tensors["lm_head.weight"] = head
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
