"""Every GGUF file of the reference data on both executors, and its blocks against the reference's numbers."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.checkpoints.folder import Checkpoint
from penstock.checkpoints.load import stream_weights
from penstock.models.decoder import build
from penstock.models.registry import resolve
from penstock.quant.dequantise import dequantise
from penstock.quant.formats import BLOCKS, DENSE, check
from penstock.quant.scheme import WeightData
from tests.harness import EXECUTORS, open_runner
from tests.helpers import golden

FILES = [("gguf_llama", name) for name in (
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K",
    "IQ4_NL", "IQ4_XS",
)] + [(folder, name) for folder in ("gguf_qwen2", "gguf_mixtral", "gguf_baichuan", "gguf_chatglm")
      for name in ("Q8_0", "Q4_K_M")] + [
    ("gguf_qwen2_moe", "Q4_K_M"), ("gguf_gpt2", "Q4_K_M"), ("gguf_bloom", "Q5_K_M"),
]  # fmt: skip


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_are_the_reference_s_to_the_bit(kind: str) -> None:
    arrays = np.load(golden("gguf_blocks") / "golden.npz")
    raw, expected = arrays[f"{kind.upper()}_raw"], arrays[f"{kind.upper()}_f32"]
    data = check(WeightData(kind, expected.shape, {"blocks": raw}), kind)
    assert np.array_equal(dequantise(data), expected)
    assert np.array_equal(dequantise(data.rows(np.array([2, 0]))), expected[[2, 0]])


@pytest.mark.parametrize("kind", BLOCKS)
def test_any_blocks_are_what_the_library_says(kind: str) -> None:
    gguf = pytest.importorskip("gguf")
    raw = np.random.default_rng(7).integers(0, 256, (5, 3 * BLOCKS[kind].nbytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(raw, gguf.GGMLQuantizationType[kind.upper()])
        found = dequantise(WeightData(kind, expected.shape, {"blocks": raw}))
    assert np.array_equal(found, expected, equal_nan=True)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize(("folder", "name"), FILES)
def test_logits_and_tokens(folder: str, name: str, executor: str) -> None:
    arrays = np.load(golden(folder) / "golden.npz")
    with open_runner(golden(folder) / f"{name}.gguf", executor) as runner:
        for prompt in ("p0", "p1", "p2"):
            assert np.abs(runner.prefill(arrays[f"{prompt}_ids"]) - arrays[f"{name}_{prompt}_logits"]).max() < 1e-4
        assert runner.greedy(arrays["p1_ids"], 24) == arrays[f"{name}_p1_greedy"].tolist()


@pytest.mark.parametrize(("folder", "name"), [("gguf_mixtral", "Q4_K_M"), ("gguf_bloom", "Q5_K_M")])
def test_blocks_stay_blocks(folder: str, name: str) -> None:
    """Also where rows are permuted, fused or stacked by expert."""
    with Checkpoint.open(golden(folder) / f"{name}.gguf") as checkpoint:
        family = resolve(checkpoint.config)
        architecture = family.architecture(checkpoint.config)
        rules = family.rules(architecture, checkpoint.config)
        for spec, data in stream_weights(checkpoint, build(architecture), rules):
            small = spec.kind == "vector" or "router" in spec.name
            assert data.format in (DENSE if small else BLOCKS), spec.name
            assert check(data, spec.name).shape == spec.shape
