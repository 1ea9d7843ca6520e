"""Every quantised checkpoint of the reference data: its numbers to the bit, its logits and tokens in float32."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from penstock.checkpoints.folder import Checkpoint
from penstock.checkpoints.load import stream_weights
from penstock.models.decoder import build
from penstock.models.registry import resolve
from penstock.quant.dequantise import dequantise
from penstock.quant.formats import check
from penstock.quant.scheme import WORDS, WeightData
from tests.harness import EXECUTORS, open_runner
from tests.helpers import golden

FORMATS = {
    "fmt_awq_g128_llama": "int4", "fmt_awq_g128_qwen2": "int4", "fmt_awq_g64_llama": "int4",
    "fmt_gptq_int4_asym_desc_g64_llama": "int4", "fmt_gptq_int4_asym_g128_v2_llama": "int4",
    "fmt_gptq_int4_sym_desc_g128_qwen2": "int4", "fmt_gptq_int4_sym_g128_llama": "int4",
    "fmt_gptq_int4_sym_gNone_qwen2": "int4", "fmt_gptq_int8_asym_desc_g128_qwen2": "int8",
    "fmt_gptq_int8_sym_g128_llama": "int8",
    "fmt_ct_w4a16_asym_qwen2": "int4", "fmt_ct_w4a16_llama": "int4", "fmt_ct_w8a16_llama": "int8",
    "fmt_ct_w8a16_naive_qwen2": "int8", "fmt_ct_w8a8_llama": "int8", "fmt_ct_w8a8_qwen2": "int8",
    "fmt_ct_fp8_tensor_llama": "fp8", "fmt_ct_fp8_dynamic_qwen2": "fp8",
    "fmt_fp8_block_llama": "fp8", "fmt_fp8_block_qwen2": "fp8",
}  # fmt: skip
ACT = {"w8a8": "int8", "fp8": "fp8"}


def weights(folder: Path, words: bool = False) -> dict[str, WeightData]:
    """All weights by canonical name."""
    with Checkpoint.open(folder) as checkpoint:
        family = resolve(checkpoint.config)
        architecture = family.architecture(checkpoint.config)
        rules = family.rules(architecture, checkpoint.config)
        return {spec.name: data for spec, data in stream_weights(checkpoint, build(architecture), rules, words=words)}


def original(name: str) -> str:
    """``layers.0.attn.q.weight`` -> ``model.layers.0.self_attn.q_proj``."""
    _, layer, part, which, _ = name.split(".")
    return f"model.layers.{layer}.{'self_attn' if part == 'attn' else part}.{which}_proj"


@pytest.mark.parametrize("name", FORMATS)
def test_numbers_are_those_of_the_writer_to_the_bit(name: str) -> None:
    expected = json.loads((golden(name) / "meta.json").read_text())["dequantised"]
    act = next((act for key, act in ACT.items() if f"_{key}" in name), None)
    found = {}
    for weight, data in weights(golden(name) / "ckpt").items():
        if data.format not in ("f16", "bf16"):
            assert data.format == FORMATS[name]
            assert data.params.get("act") == act
            assert ("g_idx" in data.arrays) == ("_desc_" in name)
            check(data, weight)
            found[original(weight)] = hashlib.sha256(dequantise(data).tobytes()).hexdigest()
    assert found == {module: facts["sha256"] for module, facts in expected.items()}


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", FORMATS)
def test_logits_and_tokens(name: str, executor: str) -> None:
    arrays = np.load(golden(name) / "golden.npz")
    with open_runner(golden(name) / "ckpt", executor) as runner:
        for prompt in ("p0", "p1", "p2"):
            ids = arrays[f"{prompt}_ids"]
            assert np.abs(runner.prefill(ids) - arrays[f"{prompt}_logits"]).max() < 1e-4
            assert runner.greedy(ids, 24) == arrays[f"{prompt}_greedy"].tolist()


@pytest.mark.parametrize("activation", ["float", "int8"])
@pytest.mark.parametrize("name", [name for name, fmt in FORMATS.items() if fmt == "int4"])
def test_words_packed_as_such_give_the_bits_of_rows(name: str, activation: str) -> None:
    quantised = [data for data in weights(golden(name) / "ckpt", words=True).values() if data.format == "int4"]
    packed = sum(WORDS in data.arrays for data in quantised)
    assert packed == (len(quantised) if ("awq" in name or "gptq" in name) and "_desc_" not in name else 0)
    ids = np.load(golden(name) / "golden.npz")["p0_ids"]
    found = []
    for words in (False, True):
        with open_runner(golden(name) / "ckpt", "native", words=words, activation=activation) as runner:
            found.append(runner.prefill(ids))
    assert np.array_equal(found[0], found[1])


@pytest.mark.parametrize("name", FORMATS)
def test_rows_of_a_weight_are_rows_of_its_numbers(name: str) -> None:
    index = np.array([5, 0, 127, 64], np.int64)
    for data in weights(golden(name) / "ckpt").values():
        if len(data.shape) == 2:
            whole = dequantise(data)
            for rows in (index, slice(3, 50)):
                assert np.array_equal(dequantise(check(data.rows(rows), "rows")), whole[rows])
