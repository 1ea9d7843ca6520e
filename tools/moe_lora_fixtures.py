"""Makes the golden fixtures ``tests/data/golden/lora_*``: tiny mixtures with LoRA of their experts, computed by PEFT.

Two ways to hold experts, hence two ways to adapt them, which need two generations of transformers:

    python -m tools.moe_lora_fixtures experts     transformers 4: each linear of an expert is a module
    python -m tools.moe_lora_fixtures fused       transformers 5: all experts' are one parameter, `target_parameters`

The first also makes the base models. Beside what penstock needs for development: peft and the transformers named.
"""

from __future__ import annotations

import json
import sys
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "data" / "golden"
SIZES: dict[str, Any] = {
    "vocab_size": 131, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
QWEN: dict[str, Any] = {
    "moe_intermediate_size": 20,
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "intermediate_size": 28,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {"intermediate_size": 20, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "qwen2_moe": {
        **QWEN, "shared_expert_intermediate_size": 24, "num_hidden_layers": 3, "mlp_only_layers": [1],
    },
    "qwen3_moe": {**QWEN, "head_dim": 12, "norm_topk_prob": True, "num_experts_per_tok": 3},
}  # fmt: skip
PROMPTS = (1, 7, 33)
GREEDY = 24
CLEAR = 0.01
"""Between the two best logits of each step, so that rounding chooses no token."""
EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": {
        "target_modules": r".*(q_proj|block_sparse_moe\.gate|experts\.[03]\.w[123]|experts\.1\.w2|experts\.2\.w[13])",
        "rank_pattern": {"experts.0.w1": 5}, "alpha_pattern": {"experts.3.w2": 9},
    },
    "qwen2_moe": {
        "target_modules": r".*(v_proj|shared_expert\.up_proj|experts\.[024]\.(gate|up|down)_proj|experts\.1\.down_proj)",
        "rank_pattern": {r"0\.mlp\.experts\.\d+\.down_proj": 1},
    },
    "qwen3_moe": {"target_modules": ["gate_proj", "down_proj", "o_proj"], "use_rslora": True},
}  # fmt: skip
FUSED: dict[str, dict[str, Any]] = {
    "mixtral": {
        "target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        "rank_pattern": {"experts.down_proj": 4}, "alpha_pattern": {"0.mlp.experts.gate_up_proj": 3},
    },
    "qwen2_moe": {"target_modules": [], "target_parameters": ["experts.down_proj"], "use_rslora": True},
    "qwen3_moe": {
        "target_modules": ["k_proj"],
        "target_parameters": ["0.mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate.weight"],
    },
}  # fmt: skip


def folder(family: str) -> Path:
    return GOLDEN / f"lora_{family}"


def make_base(family: str) -> None:
    """Weights of which every part matters, rounded to the type they are stored in."""
    torch.manual_seed(sum(map(ord, family)))
    config = transformers.AutoConfig.for_model(family, **{**SIZES, **FAMILIES[family]})
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.normal_(0.0 if name.endswith("bias") else 1.0, 0.2)
            else:
                weight.normal_(
                    0.0, (1.0 if "embed" in name else 1.6) / weight.shape[-1] ** (0 if "embed" in name else 0.5)
                )
    model.to(torch.bfloat16).save_pretrained(folder(family) / "ckpt")


def open_base(family: str) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder(family) / "ckpt", dtype=torch.float32, attn_implementation="eager"
    ).eval()


def make_adapter(family: str, kind: str) -> None:
    torch.manual_seed(7)
    options = {"r": 3, "lora_alpha": 6, "lora_dropout": 0.0, "init_lora_weights": False, "task_type": "CAUSAL_LM"}
    wanted = (EXPERTS if kind == "experts" else FUSED)[family]
    model = peft.get_peft_model(open_base(family), peft.LoraConfig(**{**options, **wanted}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(0.0, 0.5 if "lora_B" in name else 1.0 / weight.shape[1] ** 0.5)
                weight.copy_(weight.to(torch.bfloat16))
    model.peft_config["default"].base_model_name_or_path = "../ckpt"
    model.save_pretrained(str(folder(family) / kind), save_embedding_layers=False)
    (folder(family) / kind / "README.md").unlink(missing_ok=True)


@torch.no_grad()
def values(model: Any, base: Any, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """What the fixtures hold of each prompt; see their README."""
    rng = np.random.default_rng(seed)
    found: dict[str, np.ndarray[Any, Any]] = {}
    for i, length in enumerate(PROMPTS):
        ids = rng.integers(3, SIZES["vocab_size"], length)
        prompt = torch.from_numpy(ids)[None]
        tokens, margins = prompt, []
        for _ in range(GREEDY):
            last = model(tokens, use_cache=False).logits[0, -1].sort(descending=True)
            margins.append(float(last.values[0] - last.values[1]))
            tokens = torch.cat([tokens, last.indices[None, :1]], 1)
        found |= {
            f"p{i}_ids": ids.astype(np.int32), f"p{i}_logits": model(prompt, use_cache=False).logits[0].numpy(),
            f"p{i}_greedy": tokens[0, length:].numpy().astype(np.int32),
            f"p{i}_greedy_margin": np.array(margins, np.float32),
        }  # fmt: skip
    found["p1_logits_base"] = base(torch.from_numpy(found["p1_ids"].astype(np.int64))[None]).logits[0].numpy()
    return found


def main(kind: str) -> None:
    torch.set_num_threads(1)
    for family in FAMILIES:
        if kind == "experts":
            make_base(family)
        make_adapter(family, kind)
        model = peft.PeftModel.from_pretrained(open_base(family), str(folder(family) / kind)).eval()
        for seed in count():
            found = values(model, open_base(family), seed)
            margin = min(float(found[f"p{i}_greedy_margin"].min()) for i in range(len(PROMPTS)))
            if margin > CLEAR:
                break
        np.savez_compressed(folder(family) / f"golden_{kind}.npz", **found)
        effect = float(np.abs(found["p1_logits"] - found["p1_logits_base"]).max())
        meta = {
            "made_by": f"tools/moe_lora_fixtures.py {kind}", "torch": torch.__version__,
            "transformers": transformers.__version__, "peft": peft.__version__,
            "effect": f"max |adapted - base| logits on p1 = {effect:.3f}", "greedy_min_margin": round(margin, 5),
        }  # fmt: skip
        (folder(family) / f"meta_{kind}.json").write_text(json.dumps(meta, indent=2) + "\n")
        print(family, kind, meta["effect"], margin)


if __name__ == "__main__":
    main(sys.argv[1])
