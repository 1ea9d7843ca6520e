"""A base may be stored in any format: adapters under the original checkpoint's names act on GGUF and quantised ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from penstock import LLM
from penstock.executors.torch.executor import TorchExecutor
from penstock.models.program import Program
from tests.adapters.some import open_llm, write_peft
from tests.harness import F32, Runner
from tests.helpers import golden

MODULES = {
    "self_attn.q_proj": "attn.q", "self_attn.k_proj": "attn.k", "self_attn.o_proj": "attn.o",
    "mlp.gate_proj": "mlp.gate", "mlp.down_proj": "mlp.down",
}  # fmt: skip
BASES = (
    "gguf_llama/F32.gguf", "gguf_llama/Q4_K_M.gguf", "gguf_qwen2/Q8_0.gguf", "fmt_gptq_int4_sym_desc_g128_qwen2/ckpt",
    "fmt_awq_g64_llama/ckpt", "fmt_ct_w8a16_llama/ckpt", "fmt_fp8_block_llama/ckpt",
)  # fmt: skip

IDS = [3, 5, 8, 13, 21, 34]


def tensors(program: Program) -> tuple[dict[str, F32], dict[str, F32]]:
    """A LoRA of the first layer as PEFT names it, and what it adds to each weight when its alpha is four."""
    rng = np.random.default_rng(0)
    files: dict[str, F32] = {}
    added: dict[str, F32] = {}
    for module, target in MODULES.items():
        weight = f"layers.0.{target}.weight"
        n, k = program.weights[weight].shape
        a = (rng.standard_normal((2, k)) / k**0.5).astype(np.float32)
        b = rng.standard_normal((n, 2)).astype(np.float32)
        at = f"base_model.model.model.layers.0.{module}"
        files |= {f"{at}.lora_A.weight": a, f"{at}.lora_B.weight": b}
        added[weight] = np.float32(2) * (b @ a)
    return files, added


def live(llm: LLM, folder: Path) -> tuple[F32, F32]:
    """Logits with the adapter, and without."""
    executor = llm.model.executor
    info = llm.load_adapter("a", folder)
    run = Runner(executor)
    plain = run.prefill(IDS)
    (found,), _ = run.step([(run.add(IDS), len(IDS))], adapters=np.array([info.slot], np.int32))
    return found, plain


@pytest.mark.parametrize("name", BASES)
def test_live_is_the_weights_with_the_product_added(name: str, tmp_path: Path) -> None:
    with open_llm(golden(name.split("/")[0]) / name.split("/")[1], "torch", kv_cache_memory=1 << 26) as llm:
        executor = llm.model.executor
        assert isinstance(executor, TorchExecutor)
        files, added = tensors(executor.program)
        found, plain = live(llm, write_peft(tmp_path, files))
        for weight, product in added.items():  # in the order of the original rows
            executor._weights[weight] = executor._weights[weight] + executor._weights[weight].new_tensor(product)
        np.testing.assert_allclose(found, Runner(executor).prefill(IDS), rtol=0, atol=1e-4 * max(1.0, found.std()))
        assert np.abs(found - plain).max() > 0.01


@pytest.mark.parametrize("name", BASES)
def test_native_is_the_plain_executor(name: str, tmp_path: Path) -> None:
    """On weights that stay quantised, their inputs floats."""
    results = []
    for executor in ("torch", "native"):
        model = golden(name.split("/")[0]) / name.split("/")[1]
        with open_llm(model, executor, kv_cache_memory=1 << 26, activation="float") as llm:
            files, _ = tensors(llm.model.executor.program)
            results.append(live(llm, write_peft(tmp_path / executor, files)))
    (expected, _), (found, plain) = results
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * max(1.0, expected.std()))
    assert np.abs(found - plain).max() > 0.01
