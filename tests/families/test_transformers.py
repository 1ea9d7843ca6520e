"""Fresh tiny checkpoints of transformers' classes: prefill, chunks, decode, with odd sizes and every rope scaling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
    "qwen3-biases": {"head_dim": 12, "attention_bias": True, "tie_word_embeddings": True},
}  # fmt: skip
PROMPT, NEW = 41, 12


class Reference:
    """A saved checkpoint, and what transformers computes with it."""

    def __init__(self, name: str, folder: Path) -> None:
        torch.manual_seed(len(name))
        torch.set_num_threads(1)
        config = transformers.AutoConfig.for_model(name.split("-")[0], **ODD | CASES[name])
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
            assert len(set(self.tokens)) > 2, "the tokens would not show a fault in decoding"


@pytest.fixture(scope="module", params=list(CASES))
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
