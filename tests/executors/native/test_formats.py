"""Quantised checkpoints on the native executor: whole-number inputs give logits near those of the reference (those of
its float path: tests/quant/test_golden_*), and a weight stays as small in memory as its file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock.errors import ConfigError
from tests.harness import open_runner
from tests.helpers import golden

CODED = (
    "fmt_awq_g128_llama", "fmt_awq_g128_qwen2", "fmt_awq_g64_llama",
    "fmt_gptq_int4_asym_desc_g64_llama", "fmt_gptq_int4_asym_g128_v2_llama", "fmt_gptq_int4_sym_desc_g128_qwen2",
    "fmt_gptq_int4_sym_g128_llama", "fmt_gptq_int4_sym_gNone_qwen2", "fmt_gptq_int8_asym_desc_g128_qwen2",
    "fmt_gptq_int8_sym_g128_llama", "fmt_ct_w4a16_asym_qwen2", "fmt_ct_w4a16_llama", "fmt_ct_w8a16_llama",
    "fmt_ct_w8a16_naive_qwen2", "fmt_ct_w8a8_llama", "fmt_ct_w8a8_qwen2",
    "fmt_ct_fp8_tensor_llama", "fmt_ct_fp8_dynamic_qwen2", "fmt_fp8_block_llama", "fmt_fp8_block_qwen2",
)  # fmt: skip
GGUF = [("gguf_llama", name) for name in (
    "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS",
)] + [(folder, name) for folder in ("gguf_qwen2", "gguf_mixtral", "gguf_baichuan", "gguf_chatglm")
      for name in ("Q8_0", "Q4_K_M")] + [
    ("gguf_qwen2_moe", "Q4_K_M"), ("gguf_gpt2", "Q4_K_M"), ("gguf_bloom", "Q5_K_M"),
]  # fmt: skip


def near(logits: NDArray[np.float32], exact: NDArray[np.float32]) -> bool:
    """Within what rounding inputs to eight bits costs these random weights."""
    error = np.abs(logits - exact)
    return bool(error.max() < 0.25 and error.mean() < 0.035)


@pytest.mark.parametrize(("folder", "name"), GGUF)
def test_int8_path_of_gguf(folder: str, name: str) -> None:
    """No reference has these roundings; it may be as far from the exact logits as other roundings of inputs are."""
    arrays = np.load(golden(folder) / "golden.npz")
    with open_runner(golden(folder) / f"{name}.gguf", "native", compute="auto", activation="int8") as runner:
        for prompt in ("p0", "p1", "p2"):
            assert near(runner.prefill(arrays[f"{prompt}_ids"]), arrays[f"{name}_{prompt}_logits"])


@pytest.mark.parametrize("name", CODED)
def test_int8_path(name: str) -> None:
    if "fp8" in name:
        pytest.skip("float8 weights meet floats")
    arrays = np.load(golden(name) / "golden.npz")
    with open_runner(golden(name) / "ckpt", "native", compute="auto", activation="int8") as runner:
        for prompt in ("p0", "p1", "p2"):
            logits = runner.prefill(arrays[f"{prompt}_ids"])
            assert near(logits, arrays[f"{prompt}_logits"])
            if "w8a8" in name:  # whose reference rounds as we do; a value on the edge may fall to the other side
                assert np.abs(logits - arrays[f"{prompt}_logits_actint8"]).max() < 0.05


SAMPLE = (
    ("fmt_awq_g128_llama", "ckpt"), ("fmt_gptq_int4_sym_desc_g128_qwen2", "ckpt"), ("fmt_ct_w8a8_llama", "ckpt"),
    ("fmt_fp8_block_qwen2", "ckpt"), ("gguf_llama", "Q3_K_M.gguf"), ("gguf_mixtral", "Q4_K_M.gguf"),
)  # fmt: skip


@pytest.mark.parametrize(("folder", "file"), SAMPLE)
@pytest.mark.parametrize("activation", ["float", "int8"])
def test_same_bits_in_pieces_in_company_and_unfused(folder: str, file: str, activation: str) -> None:
    ids = np.random.default_rng(3).integers(0, 128, 40).tolist()
    expected = None
    for mode, threads, chunks in (("static", 1, None), ("static", 2, [1, 7, 3]), ("dynamic", 3, [25])):
        how: dict[str, Any] = {"activation": activation, "mode": mode, "threads": threads}
        with open_runner(golden(folder) / file, "native", compute="auto", **how) as runner:
            logits = runner.prefill(ids, chunks)
            other, same = runner.add(ids[:9]), runner.add(ids)
            _, together = runner.step([(other, 9), (same, 40)])[0]
        expected = logits if expected is None else expected
        assert np.array_equal(logits, expected)
        assert np.array_equal(together, expected)


@pytest.mark.parametrize(("name", "most"), [("Q4_K_M", 1.1), ("Q6_K", 1.1), ("Q2_K", 1.25), ("Q8_0", 1.1)])
def test_memory_stays_near_the_size_of_the_file(name: str, most: float) -> None:
    path = golden("gguf_llama") / f"{name}.gguf"
    with open_runner(path, "native") as runner:
        assert runner.executor.memory.weights < most * path.stat().st_size


def test_what_cannot_be() -> None:
    path = golden("fmt_awq_g128_llama") / "ckpt"
    with (
        pytest.raises(ConfigError, match="activation must be one of auto, float, int8"),
        open_runner(path, "native", activation="int4"),
    ):
        pass
