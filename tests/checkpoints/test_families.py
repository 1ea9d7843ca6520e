"""Real checkpoints, family by family: every weight of the program is there, with the numbers of the file."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.checkpoints.folder import Checkpoint
from penstock.checkpoints.load import stream_weights
from penstock.checkpoints.ties import settle_ties
from penstock.models.decoder import build
from penstock.models.registry import resolve
from tests.helpers import golden

NAMES = {  # canonical -> original, written out once more and by hand
    "embed.weight": "model.embed_tokens.weight",
    "final_norm.weight": "model.norm.weight",
    "layers.1.attn_norm.weight": "model.layers.1.input_layernorm.weight",
    "layers.1.mlp_norm.weight": "model.layers.1.post_attention_layernorm.weight",
    "layers.1.attn.q.weight": "model.layers.1.self_attn.q_proj.weight",
    "layers.1.attn.o.weight": "model.layers.1.self_attn.o_proj.weight",
    "layers.1.mlp.gate.weight": "model.layers.1.mlp.gate_proj.weight",
    "layers.1.mlp.down.weight": "model.layers.1.mlp.down_proj.weight",
}


@pytest.mark.parametrize(
    "name",
    ["llama", "llama3", "llama_bias", "llama_dynamic", "llama_gqa", "llama_linear", "mistral", "qwen2", "qwen2_swa",
     "qwen2_yarn", "qwen3"],
)  # fmt: skip
def test_a_checkpoint_fills_its_program(name: str) -> None:
    seen: list[tuple[int, int]] = []
    with Checkpoint.open(golden(name) / "ckpt") as checkpoint:
        assert checkpoint.weights is not None
        family = resolve(checkpoint.config)
        architecture = family.architecture(checkpoint.config)
        rules = family.rules(architecture, checkpoint.config)
        architecture = settle_ties(architecture, checkpoint.weights, rules)
        program = build(architecture)
        progress = lambda done, total: seen.append((done, total))  # noqa: E731
        found = {
            spec.name: {role: np.array(array) for role, array in data.arrays.items()}
            for spec, data in stream_weights(checkpoint, program, rules, progress=progress)
        }
        assert list(found) == list(program.weights)
        for canonical, original in NAMES.items():
            tensor = checkpoint.weights.get(original)
            assert found[canonical]["weight"].dtype == tensor.dtype
            assert found[canonical]["weight"].tobytes() == tensor.tobytes()
        total = sum(checkpoint.weights.info(n).nbytes for n in checkpoint.weights.names() if not n.endswith("inv_freq"))
    assert seen[-1] == (total, total), "every byte of the file is used"
