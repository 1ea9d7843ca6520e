"""Random checkpoints of odd sizes: what a family's config may say, drawn from a seed, and saved by transformers.

`draw` gives keyword arguments of a configuration; `make` saves random weights under it, in a random type, sharded or
not, with ``config.json`` as transformers 5 or as transformers 4 wrote it, and reads them back as the reference.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

Facts = dict[str, Any]
HEADS = (6, 10, 16, 22, 24, 40, 64, 80, 96, 128, 256)
ACTIVATIONS = ("silu", "silu", "gelu", "gelu_pytorch_tanh", "relu", "gelu_new")
NO_TOKENS = {"eos_token_id": None, "bos_token_id": None, "pad_token_id": None}
MOE = ("mixtral", "qwen2_moe", "qwen3_moe")


@dataclass(frozen=True)
class Reference:
    """A checkpoint, a prompt, and what transformers makes of it: logits [T, V], greedy tokens with their logits."""

    folder: Path
    facts: Facts
    prompt: list[int]
    logits: NDArray[np.float32]
    tokens: list[int]
    steps: NDArray[np.float32]


def maybe(r: random.Random, share: float = 0.5) -> bool:
    return r.random() < share


def rope(r: random.Random, dim: int, *kinds: str) -> Facts:
    """``rope_parameters`` of one of ``kinds``, with any of the fields that are optional."""
    kind, f = r.choice(kinds), r.choice
    found: Facts = {"rope_type": kind, "rope_theta": f((1e4, 5e5, 1e6, 12345.0))}
    if kind in ("linear", "dynamic"):
        found["factor"] = f((1.5, 2.0, 4.0))
    elif kind == "yarn":
        found |= {"factor": f((2.0, 4.0, 8.0)), "original_max_position_embeddings": f((16, 32, 100))}
        optional = {"attention_factor": 1.2, "beta_fast": 16.0, "beta_slow": 2, "mscale": 1.0, "mscale_all_dim": 0.707,
                    "truncate": False}  # fmt: skip
        found |= {name: value for name, value in optional.items() if maybe(r, 0.4)}
    elif kind == "llama3":
        found |= {"factor": f((8.0, 32.0)), "low_freq_factor": f((1.0, 1.5)), "high_freq_factor": f((3, 4.0)),
                  "original_max_position_embeddings": f((16, 32, 8192))}  # fmt: skip
    elif kind == "longrope":
        found |= {"short_factor": [round(1 + r.random(), 3) for _ in range(dim // 2)],
                  "long_factor": [round(1 + 4 * r.random(), 3) for _ in range(dim // 2)],
                  "original_max_position_embeddings": f((16, 32, 45))}  # fmt: skip
        found |= {name: value for name, value in {"factor": 4.0, "attention_factor": 1.1}.items() if maybe(r, 0.3)}
    return found


def sizes(r: random.Random, *, own_head: bool = True) -> Facts:
    """Sizes that are multiples of nothing. ``own_head``: the heads together need not be as wide as the model."""
    kv, dim = r.choice((1, 2, 3)), r.choice(HEADS)
    heads = kv * r.choice((1, 1, 2, 3, 5))
    if not own_head:
        dim = min(dim, 480 // heads // 2 * 2)
    width = heads * dim if not own_head else heads * max(3, r.choice((20, 36, 66, 100, 190)) // heads)
    return NO_TOKENS | {
        "hidden_size": width, "intermediate_size": r.choice((18, 50, 77, 129, 192)),
        "num_hidden_layers": r.choice((1, 2, 3)), "num_attention_heads": heads, "num_key_value_heads": kv,
        "head_dim": dim, "vocab_size": r.choice((97, 131, 257, 515, 1003)),
        "rms_norm_eps": r.choice((1e-6, 1e-5, 1e-3)),
        "max_position_embeddings": r.choice((64, 100, 257)), "tie_word_embeddings": maybe(r),
        "hidden_act": r.choice(ACTIVATIONS),
    }  # fmt: skip


def windows(r: random.Random, facts: Facts) -> Facts:
    used = maybe(r, 0.6)
    found = {
        "use_sliding_window": used,
        "sliding_window": r.choice((4, 9, 33)),
        "max_window_layers": r.choice((0, 1, 5)),
    }
    return found | ({"layer_types": layers(r, facts)} if used and maybe(r) else {})


def layers(r: random.Random, facts: Facts) -> list[str]:
    return [r.choice(("sliding_attention", "full_attention")) for _ in range(facts["num_hidden_layers"])]


def experts(r: random.Random) -> Facts:
    count = r.choice((2, 4, 5))
    return {
        "num_experts": count, "num_experts_per_tok": r.randint(1, count), "norm_topk_prob": maybe(r),
        "moe_intermediate_size": r.choice((14, 33)), "decoder_sparse_step": r.choice((1, 2)),
        "mlp_only_layers": r.choice(([], [0], [1])),
    }  # fmt: skip


def llama(r: random.Random) -> Facts:
    c = sizes(r, own_head=maybe(r, 0.7))
    kinds = ("default", "linear", "dynamic", "yarn", "llama3", "longrope")
    return c | {"rope_parameters": rope(r, c["head_dim"], *kinds), "attention_bias": maybe(r), "mlp_bias": maybe(r)}


def mistral(r: random.Random) -> Facts:
    c = sizes(r)
    return c | {
        "sliding_window": r.choice((None, 4, 9, 33)),
        "rope_parameters": rope(r, c["head_dim"], "default", "yarn"),
    }


def mixtral(r: random.Random) -> Facts:
    count = r.choice((1, 3, 4, 7))
    return mistral(r) | {"num_local_experts": count, "num_experts_per_tok": r.randint(1, min(3, count))}


def qwen2(r: random.Random) -> Facts:
    c = sizes(r, own_head=False)
    dim = c.pop("head_dim")
    return c | windows(r, c) | {"rope_parameters": rope(r, dim, "default", "linear", "dynamic", "yarn")}


def qwen2_moe(r: random.Random) -> Facts:
    own = {"shared_expert_intermediate_size": r.choice((19, 40)), "qkv_bias": maybe(r, 0.7)}
    return qwen2(r) | experts(r) | own


def qwen3(r: random.Random) -> Facts:
    c = sizes(r)
    return (
        c | windows(r, c) | {"attention_bias": maybe(r), "rope_parameters": rope(r, c["head_dim"], "default", "yarn")}
    )


def qwen3_moe(r: random.Random) -> Facts:
    return {k: v for k, v in qwen3(r).items() if k != "layer_types"} | experts(r)


def gemma(r: random.Random) -> Facts:
    c = sizes(r) | {"pad_token_id": 0, "attention_bias": maybe(r, 0.3)}
    return c | {"rope_parameters": rope(r, c["head_dim"], "default", "linear")}


def gemma2(r: random.Random) -> Facts:
    c = gemma(r) | {
        "sliding_window": r.choice((4, 9, 33)), "query_pre_attn_scalar": r.choice((16, 30, 256)),
        "attn_logit_softcapping": r.choice((None, 5.0, 50.0)), "final_logit_softcapping": r.choice((None, 5.0, 30.0)),
    }  # fmt: skip
    c["hidden_activation"] = c.pop("hidden_act")
    return c | ({"layer_types": layers(r, c)} if maybe(r) else {})


def gemma3_text(r: random.Random) -> Facts:
    c = gemma2(r)
    ropes = {"full_attention": rope(r, c["head_dim"], "default", "linear", "yarn"),
             "sliding_attention": rope(r, c["head_dim"], "default")}  # fmt: skip
    return c | {"layer_types": layers(r, c), "rope_parameters": ropes}


def phi3(r: random.Random) -> Facts:
    c = sizes(r, own_head=False) | {"pad_token_id": 0, "sliding_window": r.choice((None, 8, 40))}
    dim = c.pop("head_dim")
    share = r.choice([s for s in (1.0, 0.5, 0.75) if int(dim * s) % 2 == 0])
    found = rope(r, int(dim * share), "default", "longrope", "longrope") | {"partial_rotary_factor": share}
    for name in ("factor", "attention_factor"):
        found.pop(name, None)
    original = found.pop("original_max_position_embeddings", 45)
    return c | {"rope_parameters": found, "original_max_position_embeddings": original}


def stablelm(r: random.Random) -> Facts:
    c = sizes(r, own_head=False) | {"layer_norm_eps": 1e-5, "use_qkv_bias": maybe(r), "qk_layernorm": maybe(r)}
    dim = c.pop("head_dim")
    del c["rms_norm_eps"]
    share = r.choice([s for s in (1.0, 0.5, 0.25) if int(dim * s) % 2 == 0])
    found = rope(r, dim, "default") | {"partial_rotary_factor": share}
    return c | {"use_parallel_residual": maybe(r), "rope_parameters": found}


def glm(r: random.Random) -> Facts:
    c = sizes(r) | {"pad_token_id": 0, "attention_bias": maybe(r)}
    share = r.choice([s for s in (1.0, 0.5, 0.25) if int(c["head_dim"] * s) % 2 == 0])
    return c | {"rope_parameters": rope(r, 0, "default") | {"partial_rotary_factor": share}}


def old(r: random.Random, **names: str) -> Facts:
    """Sizes of the families that have one key or value head for each query head. ``names``: what they call them."""
    heads, act = r.choice((1, 2, 3, 5)), r.choice(("gelu_new", "relu", "gelu"))
    named = {"hidden_size": heads * r.choice((8, 16, 40, 64)), "heads": heads, "layers": r.choice((1, 2, 3)),
             "positions": 128, "inner": r.choice((50, 77)), "activation": act}  # fmt: skip
    found = {names.get(name, name): value for name, value in named.items()}
    found.pop("", None)
    return {"vocab_size": r.choice((97, 131, 1003)), "tie_word_embeddings": maybe(r), **NO_TOKENS, **found}


def gpt2(r: random.Random) -> Facts:
    c = old(r, hidden_size="n_embd", heads="n_head", layers="n_layer", positions="n_positions", inner="n_inner",
            activation="activation_function")  # fmt: skip
    return c | {"scale_attn_weights": maybe(r), "scale_attn_by_inverse_layer_idx": maybe(r)}


def gptj(r: random.Random) -> Facts:
    c = old(r, hidden_size="n_embd", heads="n_head", layers="n_layer", positions="n_positions", inner="n_inner",
            activation="activation_function")  # fmt: skip
    return c | {"rotary_dim": r.choice((2, 4, 8))}


def gpt_neo(r: random.Random) -> Facts:
    c = old(r, heads="num_heads", layers="num_layers", positions="max_position_embeddings", inner="intermediate_size",
            activation="activation_function")  # fmt: skip
    kinds = [[[r.choice(("local", "global"))], 1] for _ in range(c["num_layers"])]
    return c | {"attention_types": kinds, "window_size": r.choice((3, 9, 64))}


def gpt_neox(r: random.Random) -> Facts:
    c = old(r, heads="num_attention_heads", layers="num_hidden_layers", positions="max_position_embeddings",
            inner="intermediate_size", activation="hidden_act")  # fmt: skip
    found = rope(r, 0, "default") | {"partial_rotary_factor": r.choice((0.25, 0.5, 1.0))}
    return c | {"use_parallel_residual": maybe(r), "attention_bias": maybe(r), "rope_parameters": found}


def opt(r: random.Random) -> Facts:
    c = old(r, heads="num_attention_heads", layers="num_hidden_layers", positions="max_position_embeddings",
            inner="ffn_dim", activation="activation_function")  # fmt: skip
    width = r.choice((c["hidden_size"], 22))
    return c | {"word_embed_proj_dim": width, "do_layer_norm_before": maybe(r), "enable_bias": maybe(r, 0.7)}


def bloom(r: random.Random) -> Facts:
    c = old(r, heads="n_head", layers="n_layer", positions="", inner="", activation="")
    return c | {"apply_residual_connection_post_layernorm": maybe(r)}


FAMILIES: dict[str, Callable[[random.Random], Facts]] = {
    "llama": llama, "mistral": mistral, "mixtral": mixtral, "qwen2": qwen2, "qwen2_moe": qwen2_moe, "qwen3": qwen3,
    "qwen3_moe": qwen3_moe, "gemma": gemma, "gemma2": gemma2, "gemma3_text": gemma3_text, "phi3": phi3,
    "stablelm": stablelm, "glm": glm, "glm4": glm, "gpt2": gpt2, "gptj": gptj, "gpt_neo": gpt_neo,
    "gpt_neox": gpt_neox, "opt": opt, "bloom": bloom,
}  # fmt: skip


def make(family: str, seed: int, folder: Path, new: int = 8) -> Reference:
    r = random.Random(f"{family}-{seed}")
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    facts = FAMILIES[family](r)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(family, **facts))
    with torch.no_grad():
        for name, p in model.named_parameters():  # biases and norms too: nothing stays at its neutral value
            spread = 1.2 * p.shape[-1] ** -0.5 if p.ndim > 1 else 0.3
            p.copy_(torch.randn_like(p) * spread + float("norm" in name or "ln_" in name))
    model.to(r.choice((torch.float32, torch.float16, torch.bfloat16)))
    shards = {"max_shard_size": r.choice(("20KB", "100KB"))} if maybe(r, 0.4) else {}
    model.save_pretrained(folder, **shards)
    how = {"experts_implementation": "eager"} if family in MOE else {}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", **how
    ).eval()
    if maybe(r, 0.4) and family != "gemma3_text":
        as_transformers_4(folder / "config.json", r)
    ids = torch.randint(0, facts["vocab_size"], (1, r.choice((1, 2, 17, 41, 50))))
    with torch.no_grad():
        logits = model(ids).logits[0].numpy()
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, pad_token_id=0,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
    prompt = ids[0].tolist()
    tokens = out.sequences[0, len(prompt) :].tolist()
    return Reference(folder, facts, prompt, logits, tokens, torch.stack(out.logits)[:, 0].float().numpy())


def as_transformers_4(path: Path, r: random.Random) -> None:
    """Rewrite ``config.json`` with the names that were usual before ``rope_parameters``."""
    config = json.loads(path.read_text())
    config["torch_dtype"] = config.pop("dtype")
    found = config.pop("rope_parameters", None)
    if found is not None:
        neox = config["model_type"] == "gpt_neox"
        config["rotary_emb_base" if neox else "rope_theta"] = found.pop("rope_theta")
        share = found.pop("partial_rotary_factor", None)
        if share is not None:
            config["rotary_pct" if neox else "partial_rotary_factor"] = share
        kind = found.pop("rope_type")
        found[r.choice(("type", "rope_type")) if kind != "yarn" else "rope_type"] = kind
        config["rope_scaling"] = None if kind == "default" else found
    path.write_text(json.dumps(config))
