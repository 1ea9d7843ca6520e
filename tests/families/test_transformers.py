"""Fresh tiny checkpoints of transformers' classes: prefill, chunks, decode, with odd sizes and every rope scaling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.errors import CheckpointError
from tests.adapters.some import generate, open_llm, write_peft
from tests.harness import EXECUTORS, open_runner

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ODD: dict[str, Any] = {
    "hidden_size": 60, "intermediate_size": 76, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "vocab_size": 131, "max_position_embeddings": 48, "eos_token_id": None,
}  # fmt: skip
LONG = [1.0 + 0.7 * i for i in range(5)]
CASES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-mha-tied": {"num_key_value_heads": 6, "tie_word_embeddings": True},
    "llama-mqa-biases": {"num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True, "head_dim": 14},
    "llama-gelu": {"hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": 1e-3},
    "llama-theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 77777.0}},
    "llama-linear": {"rope_parameters": {"rope_type": "linear", "factor": 3.0}},
    "llama-dynamic": {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}},
    "llama-yarn": {
        "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    },
    "llama-yarn-mscale": {
        "rope_parameters": {
            "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16, "mscale": 1.0,
            "mscale_all_dim": 0.7, "beta_fast": 8.0, "beta_slow": 2.0, "truncate": False,
        },
    },
    "llama-yarn-factor": {
        "rope_parameters": {
            "rope_type": "yarn", "factor": 2.0, "attention_factor": 1.3, "original_max_position_embeddings": 24,
        },
    },
    "llama-llama3": {
        "rope_parameters": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "llama-longrope": {
        "rope_parameters": {
            "rope_type": "longrope", "factor": 3.0, "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4], "long_factor": LONG,
            "original_max_position_embeddings": 16,
        },
    },
    "llama-longrope-crossed": {
        "rope_parameters": {
            "rope_type": "longrope", "factor": 3.0, "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4], "long_factor": LONG,
            "original_max_position_embeddings": 45,
        },
    },
    "mistral": {"sliding_window": 7},
    "mistral-nemo": {"sliding_window": None, "head_dim": 16, "rope_theta": 1e6},
    "qwen2": {"max_window_layers": 1, "sliding_window": 9, "use_sliding_window": True},
    "qwen2-tied": {"tie_word_embeddings": True, "sliding_window": 9},
    "qwen2-layers": {
        "sliding_window": 5, "use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"],
    },
    "qwen3": {"head_dim": 18},
    "mixtral": {"num_local_experts": 5, "num_experts_per_tok": 3, "sliding_window": 11},
    "qwen2_moe-dense": {
        "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "norm_topk_prob": True,
        "shared_expert_intermediate_size": 36, "mlp_only_layers": [1], "use_sliding_window": True, "sliding_window": 7,
    },
    "qwen3_moe": {
        "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "head_dim": 12,
        "decoder_sparse_step": 2,
    },
    "stablelm-12b": {"use_parallel_residual": True, "qk_layernorm": True, "partial_rotary_factor": 0.6},
    "phi3": {"pad_token_id": 0, "rope_parameters": {
        "rope_type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4], "long_factor": LONG},
        "original_max_position_embeddings": 30},
    "gemma": {"head_dim": 14},
    "gemma2": {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 30, "attn_logit_softcapping": None,
               "hidden_activation": "gelu"},
    "gemma3_text": {
        "head_dim": 16, "sliding_window": 8, "final_logit_softcapping": 5.0, "attn_logit_softcapping": 5.0,
        "layer_types": ["full_attention", "sliding_attention"], "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    "glm4-mha": {"head_dim": 20, "num_key_value_heads": 6, "pad_token_id": 0},
    "qwen3-biases": {"head_dim": 12, "attention_bias": True, "tie_word_embeddings": True},
}  # fmt: skip
OTHER_KEYS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 60, "n_head": 6, "n_layer": 2, "n_positions": 64},
    "gpt2-scales": {
        "n_embd": 60, "n_head": 5, "n_layer": 2, "n_positions": 64, "scale_attn_by_inverse_layer_idx": True,
        "scale_attn_weights": False, "n_inner": 50, "tie_word_embeddings": False, "activation_function": "relu",
    },
    "bloom-post": {"hidden_size": 60, "n_head": 5, "n_layer": 2, "apply_residual_connection_post_layernorm": True},
    "gpt_neox-sequential": {
        "hidden_size": 60, "num_attention_heads": 6, "num_hidden_layers": 2, "intermediate_size": 90,
        "use_parallel_residual": False, "rotary_pct": 1.0, "attention_bias": False, "hidden_act": "gelu_new",
    },
    "opt": {
        "hidden_size": 60, "num_attention_heads": 6, "num_hidden_layers": 2, "ffn_dim": 70, "word_embed_proj_dim": 60,
        "max_position_embeddings": 64, "activation_function": "gelu", "tie_word_embeddings": False,
    },
    "opt-350m": {
        "hidden_size": 60, "num_attention_heads": 6, "num_hidden_layers": 2, "ffn_dim": 70, "word_embed_proj_dim": 22,
        "max_position_embeddings": 64, "do_layer_norm_before": False,
    },
    "gptj": {"n_embd": 60, "n_head": 5, "n_layer": 2, "n_positions": 64, "rotary_dim": 6, "n_inner": 50},
    "gpt_neo": {
        "hidden_size": 60, "num_heads": 5, "num_layers": 3, "attention_types": [[["local"], 1], [["global"], 2]],
        "window_size": 5, "max_position_embeddings": 64,
    },
}  # fmt: skip
COMMON = {"vocab_size": 131, "eos_token_id": None}
NAMES = [*CASES, *OTHER_KEYS]
PROMPT, NEW = 41, 12


class Reference:
    """A saved checkpoint, and what transformers computes with it."""

    def __init__(self, name: str, folder: Path) -> None:
        torch.manual_seed(len(name))
        torch.set_num_threads(1)
        given = ODD | CASES[name] if name in CASES else COMMON | OTHER_KEYS[name]
        config = transformers.AutoConfig.for_model(name.split("-")[0], **given)
        config._attn_implementation = "eager"
        model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
        with torch.no_grad():
            for parameter in model.parameters():  # biases and norms too: nothing may stay at its neutral value
                parameter.copy_(torch.randn_like(parameter) * (0.25 if parameter.ndim > 1 else 0.3))
                if parameter.ndim == 1 and parameter.shape[0] in (12, 18, 60):
                    parameter.add_(1.0)
            model.save_pretrained(folder)
            self.folder = folder
            ids = torch.randint(0, 131, (1, PROMPT))
            self.ids = ids[0].tolist()
            self.logits = model(ids).logits[0].numpy()
            self.tokens = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, pad_token_id=0
            )[0, PROMPT:].tolist()


@pytest.fixture(scope="module", params=NAMES)
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference(request.param, tmp_path_factory.mktemp("checkpoint"))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_prefill_chunks_and_decode_agree_with_transformers(reference: Reference, executor: str) -> None:
    with open_runner(reference.folder, executor) as runner:
        tolerance = 2e-4 * max(1.0, float(reference.logits.std()))
        for chunks in (None, [1], [7], [20, 3]):
            difference = np.abs(runner.prefill(reference.ids, chunks) - reference.logits).max()
            assert difference < tolerance, f"chunks {chunks}: {difference:.2e}"
        assert runner.greedy(reference.ids, NEW) == reference.tokens
        assert runner.greedy(reference.ids, NEW, [11]) == reference.tokens


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int], np.ndarray]:
    """Gemma 3 that also sees: the checkpoint, a text, and its logits."""
    text = {**ODD, "num_hidden_layers": 3, "head_dim": 16, "sliding_window": 8, "sliding_window_pattern": 3,
            "pad_token_id": 0, "bos_token_id": None}  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    tokens = {"boi_token_index": 128, "eoi_token_index": 129, "image_token_index": 130}
    config = transformers.AutoConfig.for_model(
        "gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4, **tokens
    )
    torch.manual_seed(3)
    model = transformers.Gemma3ForConditionalGeneration(config).float().eval()
    folder = tmp_path_factory.mktemp("seeing")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.25)
        model.save_pretrained(folder)
        ids = torch.randint(0, 127, (1, PROMPT))
        return folder, ids[0].tolist(), model(ids).logits[0].numpy()


@pytest.mark.parametrize("place", ["language_model.model.", "model.language_model."])
def test_the_text_of_a_model_that_also_sees(
    place: str, seeing: tuple[Path, list[int], np.ndarray], tmp_path: Path
) -> None:
    """Under the names of transformers before and since 4.52, a LoRA's likewise."""
    from safetensors.numpy import load_file, save_file

    folder, ids, expected = seeing
    tensors = load_file(folder / "model.safetensors")
    renamed = {}
    for name, array in tensors.items():
        inner = name.removeprefix("model.").removeprefix("language_model.").removeprefix("model.")
        renamed[name if "language_model" not in name else place + inner] = array
    assert any(name.startswith(place) for name in renamed) and any("vision_tower" in name for name in renamed)
    save_file(renamed, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with open_runner(tmp_path, "native") as runner:
        assert np.abs(runner.prefill(ids) - expected).max() < 2e-4 * max(1.0, float(expected.std()))
    module = f"base_model.model.{place}layers.0.self_attn.q_proj"
    a, b = np.ones((2, 60), np.float32), np.ones((96, 2), np.float32)
    lora = write_peft(tmp_path / "lora", {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b})
    with open_llm(tmp_path, max_model_len=48) as llm:
        llm.load_adapter("a", lora)
        assert generate(llm, [ids[:9]], adapter="a") != generate(llm, [ids[:9]])


def test_sizes_that_a_model_that_also_sees_does_not_say(seeing: tuple[Path, list[int], np.ndarray]) -> None:
    """The published files leave out what is transformers' default."""
    from penstock.models.registry import resolve

    config = json.loads((seeing[0] / "config.json").read_text())
    published = {**config, "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
                 "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}}  # fmt: skip
    arch = resolve(published).architecture(published)
    theirs = transformers.Gemma3Config(text_config=published["text_config"]).text_config
    first = arch.blocks[0].attention
    assert (arch.vocab_size, len(arch.blocks)) == (theirs.vocab_size, theirs.num_hidden_layers)
    assert first is not None
    assert (first.heads, first.kv_heads, first.head_dim, first.window) == (
        theirs.num_attention_heads, theirs.num_key_value_heads, theirs.head_dim, theirs.sliding_window
    )  # fmt: skip
    with pytest.raises(CheckpointError, match="text_config"):
        resolve(config).architecture({"model_type": "gemma3"})
