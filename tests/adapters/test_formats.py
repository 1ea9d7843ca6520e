"""A base may be stored in any format: adapters under the original checkpoint's names act on GGUF and quantised ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.executors.torch.executor import TorchExecutor
from tests.adapters.some import open_llm, write_peft
from tests.harness import Runner
from tests.helpers import golden

MODULES = {
    "self_attn.q_proj": "attn.q", "self_attn.k_proj": "attn.k", "self_attn.o_proj": "attn.o",
    "mlp.gate_proj": "mlp.gate", "mlp.down_proj": "mlp.down",
}  # fmt: skip
BASES = (
    "gguf_llama/F32.gguf", "gguf_llama/Q4_K_M.gguf", "gguf_qwen2/Q8_0.gguf", "fmt_gptq_int4_sym_desc_g128_qwen2/ckpt",
    "fmt_awq_g64_llama/ckpt", "fmt_ct_w8a16_llama/ckpt", "fmt_fp8_block_llama/ckpt",
)  # fmt: skip


@pytest.mark.parametrize("name", BASES)
def test_live_is_the_weights_with_the_product_added(name: str, tmp_path: Path) -> None:
    model = golden(name.split("/")[0]) / name.split("/")[1]
    with open_llm(model, "torch", kv_cache_memory=1 << 26) as llm:
        executor = llm.model.executor
        assert isinstance(executor, TorchExecutor)
        rng = np.random.default_rng(0)
        tensors: dict[str, np.ndarray[Any, Any]] = {}
        added: dict[str, np.ndarray[Any, Any]] = {}
        for module, target in MODULES.items():
            weight = f"layers.0.{target}.weight"
            n, k = executor.program.weights[weight].shape
            a = (rng.standard_normal((2, k)) / k**0.5).astype(np.float32)
            b = rng.standard_normal((n, 2)).astype(np.float32)
            at = f"base_model.model.model.layers.0.{module}"
            tensors |= {f"{at}.lora_A.weight": a, f"{at}.lora_B.weight": b}
            added[weight] = 2.0 * (b @ a)
        info = llm.load_adapter("a", write_peft(tmp_path, tensors))
        ids = [3, 5, 8, 13, 21, 34]
        run = Runner(executor)
        plain = run.prefill(ids)
        (live,), _ = run.step([(run.add(ids), len(ids))], adapters=np.array([info.slot], np.int32))
        for (
            weight,
            product,
        ) in added.items():  # in the order of the original rows
            executor._weights[weight] = executor._weights[weight] + executor._weights[weight].new_tensor(product)
        np.testing.assert_allclose(live, run.prefill(ids), rtol=0, atol=1e-4 * max(1.0, float(live.std())))
        assert np.abs(live - plain).max() > 0.01
