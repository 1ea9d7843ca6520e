"""Whole checkpoints in every stored form, as users load them, against the numbers that they stand for."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from penstock.checkpoints.folder import Checkpoint
from penstock.errors import CheckpointError, UnsupportedError
from tests.adapters.some import open_llm, write_peft
from tests.adapters.test_formats import live
from tests.adapters.test_formats import tensors as lora
from tests.checkpoints.files import write as write_safetensors
from tests.harness import EXECUTORS, F32, Runner
from tests.helpers import golden
from tests.quant.forms import (
    F8,
    FORMS,
    Form,
    awq,
    float_quantized,
    fp8_blocks,
    fp8_codes,
    gptq,
    int_quantized,
    pack_quantized,
    plain_of,
)
from tests.quant.written import write_checkpoint
from tests.tiny import make

IDS = [3, 5, 8, 13, 21, 34, 55, 89, 144, 7]
SOME = (
    "AWQ, group 32", "GPTQ int4, group 32, desc_act", "compressed-tensors W4A16, group 32", "compressed-tensors W8A8",
    "compressed-tensors fp8, channel", "fp8, blocks of 32",
)  # fmt: skip
# Sizes that tools can quantise: those of the golden checkpoint, and what becomes of them.
MIXTURES: dict[str, tuple[dict[int, int], dict[str, int]]] = {
    "mixtral": ({72: 192, 24: 64, 92: 64}, {"hidden_size": 192, "intermediate_size": 64}),
    "qwen2_moe": (
        {72: 192, 24: 64, 44: 64, 84: 64, 100: 160},
        {"hidden_size": 192, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64},
    ),
    "qwen3_moe": (
        {72: 64, 96: 128, 40: 64, 120: 160},
        {"hidden_size": 64, "num_attention_heads": 8, "moe_intermediate_size": 64},
    ),
}


def resized(sizes: Mapping[int, int]) -> Any:
    """Random numbers of like spread where a size changes."""

    def change(name: str, w: F32) -> F32:
        shape = tuple(sizes.get(size, size) for size in w.shape)
        if shape == w.shape:
            return w
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        made = rng.standard_normal(shape) * (0.1 if w.ndim > 1 else 0.02) + (w.ndim == 1 and "norm" in name)
        return made.astype(w.dtype)

    return change


def llama(folder: Path, **changes: Any) -> Path:
    sizes = {"hidden_size": 64, "intermediate_size": 192, "head_dim": 16}
    return make(folder / "source", tokenizer=False, **{**sizes, **changes})


def logits(folder: Path, executor: str = "native", **options: Any) -> F32:
    with open_llm(folder, executor, activation="float", **options) as llm:
        return Runner(llm.model.executor).prefill(IDS)


def same(found: F32, expected: F32) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * max(1.0, float(np.abs(expected).max())))


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", FORMS)
def test_a_llama_in_every_form(name: str, executor: str, tmp_path: Path) -> None:
    source = llama(tmp_path)
    write_checkpoint(source, tmp_path / "q", FORMS[name])
    write_checkpoint(source, tmp_path / "p", plain_of(FORMS[name]))
    same(logits(tmp_path / "q", executor), logits(tmp_path / "p", executor))


@pytest.mark.parametrize("family", MIXTURES)
@pytest.mark.parametrize("name", FORMS)
def test_experts_in_every_form(name: str, family: str, tmp_path: Path) -> None:
    """Routers and shared gates plain, experts quantised one by one."""
    sizes, settings = MIXTURES[family]
    how: dict[str, Any] = {"change": resized(sizes), "settings": settings}
    source = golden(family) / "ckpt"
    numbers = write_checkpoint(source, tmp_path / "q", FORMS[name], **how)
    assert any(".experts." in name for name in numbers)
    write_checkpoint(source, tmp_path / "p", plain_of(FORMS[name]), **how | {"settings": {**settings}})
    same(logits(tmp_path / "q"), logits(tmp_path / "p"))


def opened(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.weights is not None
        return {name: np.array(checkpoint.weights.get(name)) for name in checkpoint.weights.names()}


def both(tmp_path: Path, form: Form, source: Path | None = None, **how: Any) -> tuple[Path, Path]:
    """A checkpoint in ``form``, and the same numbers plain."""
    source = source or llama(tmp_path)
    write_checkpoint(source, tmp_path / "q", form, **how)
    parts = {text: plain_of(part) for text, part in how.get("parts", {}).items()}
    write_checkpoint(source, tmp_path / "p", plain_of(form), **how | {"parts": parts, "files": 1})
    return tmp_path / "q", tmp_path / "p"


def also(folder: Path, tensors: Mapping[str, np.ndarray[Any, Any]], without: str = "^$") -> None:
    """More tensors in a checkpoint's one file, less those that the expression ``without`` finds."""
    kept = {name: a for name, a in opened(folder).items() if not re.search(without, name)}
    write_safetensors(folder / "model.safetensors", {**kept, **tensors})


def configure(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


# ------------------------------------------------------------------------------------ what is said of single modules


def test_modules_left_plain(tmp_path: Path) -> None:
    form = awq(32)
    said = {**form.config, "modules_to_not_convert": ["down_proj", "model.layers.0", "lm_head"]}
    q, p = both(tmp_path, Form(said, form.write), plain=r"down_proj|layers\.0")
    same(logits(q), logits(p))


def test_parts_of_one_input_stored_in_different_ways(tmp_path: Path) -> None:
    q, p = both(tmp_path, pack_quantized(4, 32), plain="up_proj|q_proj", parts={"k_proj": pack_quantized(4, 64)})
    config = json.loads((q / "config.json").read_text())["quantization_config"]
    other = pack_quantized(4, 64).config["config_groups"]["group_0"]
    config["config_groups"]["group_1"] = {**other, "targets": ["re:.*k_proj"]}
    configure(q, quantization_config=config)
    same(logits(q), logits(p))


def test_rules_of_gptq(tmp_path: Path) -> None:
    form = gptq(4, 32)
    rules = {r"-:.*layers\.0\..*": {}, r"+:.*down_proj.*": {"bits": 8, "group_size": 64, "sym": False},
             r".*o_proj": {"group_size": -1, "desc_act": True}}  # fmt: skip
    parts = {"down_proj": gptq(8, 64, sym=False), "o_proj": gptq(4, -1)}
    q, p = both(tmp_path, Form({**form.config, "dynamic": rules}, form.write), plain=r"layers\.0", parts=parts)
    same(logits(q), logits(p))


def test_four_groups_of_compressed_tensors(tmp_path: Path) -> None:
    forms = {"[qkv]_proj": pack_quantized(4, 32), "down_proj": pack_quantized(8), "o_proj": float_quantized("channel")}
    rest = int_quantized()
    groups = {f"re:.*{text}$": form for text, form in forms.items()} | {"Linear": rest}
    said = {f"group_{i}": {**form.config["config_groups"]["group_0"], "targets": [target]}
            for i, (target, form) in enumerate(groups.items())}  # fmt: skip
    config = {**rest.config, "format": "mixed-precision", "config_groups": said,
              "ignore": ["lm_head", r"re:.*layers\.1\.mlp.*"]}  # fmt: skip
    q, p = both(tmp_path, Form(config, rest.write), plain=r"layers\.1\.mlp", parts=forms)
    same(logits(q), logits(p))


def test_parts_of_a_weight_in_different_files(tmp_path: Path) -> None:
    q, p = both(tmp_path, gptq(4, 32, desc_act=True), files=4)
    assert len(list(q.glob("*.safetensors"))) == 4
    same(logits(q), logits(p))


@pytest.mark.parametrize("layout", ["auto_gptq", "auto_awq"])
def test_auto_round(layout: str, tmp_path: Path) -> None:
    """Modules told otherwise by name and by pattern."""
    form, other = (gptq(4, 32), gptq(8, 64)) if layout == "auto_gptq" else (awq(32), awq(64))
    config = {"quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": layout == "auto_gptq",
              "data_type": "int", "packing_format": f"auto_round:{layout}", "block_name_to_quantize": "model.layers",
              "extra_config": {"model.layers.0.self_attn.q_proj": {"bits": 16, "data_type": "float"},
                               ".*down_proj": {"bits": other.config["bits"], "group_size": 64}}}  # fmt: skip
    q, p = both(tmp_path, Form(config, form.write), plain=r"layers\.0.*q_proj", parts={"down_proj": other})
    same(logits(q), logits(p))


def test_model_opt_says_it_in_a_file_of_its_own(tmp_path: Path) -> None:
    q, p = both(tmp_path, float_quantized("tensor"))
    config = json.loads((q / "config.json").read_text())
    del config["quantization_config"]
    (q / "config.json").write_text(json.dumps(config))
    said = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    producer = {"name": "modelopt", "version": "0.29.0"}
    (q / "hf_quant_config.json").write_text(json.dumps({"producer": producer, "quantization": said}))
    also(q, {f"model.layers.{i}.self_attn.{w}_proj.{w}_scale": np.ones(1, np.float32) for i in range(2) for w in "kv"})
    same(logits(q), logits(p))


def test_a_cache_of_8_bits_is_let_go(tmp_path: Path) -> None:
    q, p = both(tmp_path, float_quantized("channel"))
    one: dict[str, np.ndarray[Any, Any]] = {"scale": np.full(1, 0.1, np.float32), "zero_point": np.zeros(1, np.int8)}
    layers = [f"model.layers.{i}.self_attn." for i in range(2)]
    names = ("k_{}", "v_{}", "k_proj.k_{}", "v_proj.output_{}", "attn.q_{}", "kv_{}")
    also(q, {at + name.format(what): a for at in layers for name in names for what, a in one.items()})
    config = json.loads((q / "config.json").read_text())["quantization_config"]
    scheme = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True}
    configure(q, quantization_config={**config, "kv_cache_scheme": scheme})
    same(logits(q), logits(p))


def test_scales_that_are_powers_of_two(tmp_path: Path) -> None:
    """DeepSeek V3.1's ``ue8m0``, kept as float8 exponents."""

    def write(w: F32) -> tuple[dict[str, np.ndarray[Any, Any]], F32]:
        _, scales, _ = fp8_codes(w, (128, 128))
        scales = np.exp2(np.ceil(np.log2(scales)))
        wide = np.repeat(np.repeat(scales, 128, axis=0)[: w.shape[0]], 128, axis=1)[:, : w.shape[1]]
        codes = (w / wide).astype(F8)
        numbers = codes.astype(np.float32) * wide
        return {"weight": codes, "weight_scale_inv": scales.astype(ml_dtypes.float8_e8m0fnu)}, numbers

    q, p = both(tmp_path, Form({**fp8_blocks().config, "scale_fmt": "ue8m0"}, write))
    same(logits(q), logits(p))


@pytest.mark.parametrize("name", SOME)
def test_scales_that_no_configuration_tells_of(name: str, tmp_path: Path) -> None:
    form = Form({}, FORMS[name].write)
    write_checkpoint(llama(tmp_path), tmp_path / "q", form)
    with pytest.raises(CheckpointError, match="must say how these are stored"):
        logits(tmp_path / "q")


# --------------------------------------------------------------------------------------------- heads, adapters, bits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", SOME)
def test_a_quantised_head(name: str, tied: bool, tmp_path: Path) -> None:
    """It is used even where the configuration says that the embedding serves as one: the file is right."""
    q, p = both(tmp_path, FORMS[name], llama(tmp_path, tie_word_embeddings=tied))
    parts, numbers = FORMS[name].write(opened(q)["model.embed_tokens.weight"])
    also(q, {f"lm_head.{part}": np.ascontiguousarray(a) for part, a in parts.items()})
    also(p, {"lm_head.weight": numbers})
    configure(p, tie_word_embeddings=False)
    same(logits(q), logits(p))


@pytest.mark.parametrize("name", FORMS)
def test_a_lora_on_every_form(name: str, tmp_path: Path) -> None:
    results = []
    for folder in both(tmp_path, FORMS[name]):
        with open_llm(folder, activation="float") as llm:
            files, _ = lora(llm.model.executor.program)
            results.append(live(llm, write_peft(tmp_path / f"lora-{folder.name}", files)))
    (found, before), (expected, _) = results
    same(found, expected)
    assert np.abs(found - before).max() > 0.01


@pytest.mark.parametrize("activation", ["float", "int8"])
@pytest.mark.parametrize("name", FORMS)
def test_bits_do_not_depend_on_pieces_or_threads(name: str, activation: str, tmp_path: Path) -> None:
    write_checkpoint(llama(tmp_path), tmp_path / "q", FORMS[name])
    found = []
    for threads in (1, 2):
        with open_llm(tmp_path / "q", activation=activation, threads=threads) as llm:
            runner = Runner(llm.model.executor)
            found += [runner.prefill(IDS), runner.prefill(IDS, chunks=[3, 1])]
    assert all(np.array_equal(found[0], other) for other in found[1:])


# ---------------------------------------------------------------------------------------------------------- experts


def mixture(tmp_path: Path, form: Form, family: str = "qwen3_moe", **how: Any) -> tuple[Path, Path]:
    sizes, settings = MIXTURES[family]
    return both(tmp_path, form, golden(family) / "ckpt", change=resized(sizes), settings=settings, **how)


def test_an_expert_that_no_calibration_reached(tmp_path: Path) -> None:
    q, p = mixture(tmp_path, gptq(4, 32, desc_act=True))
    at, source = "model.layers.0.mlp.experts.2.", opened(p)
    for module in ("gate_proj", "up_proj", "down_proj"):
        parts, numbers = gptq(4, 32).write(source[f"{at}{module}.weight"])
        also(q, {f"{at}{module}.{part}": np.ascontiguousarray(a) for part, a in parts.items()})
        also(p, {f"{at}{module}.weight": numbers})
    same(logits(q), logits(p))


@pytest.mark.parametrize("activation", ["float", "int8"])
@pytest.mark.parametrize("bits", [4, 8])
def test_gate_and_up_that_need_their_inputs_in_different_forms(bits: int, activation: str, tmp_path: Path) -> None:
    form = gptq(4, 32, desc_act=True)
    rules = {"+:.*up_proj.*": {"bits": bits, "group_size": 64}}
    up = {"up_proj": gptq(bits, 64, desc_act=True)}
    q, p = mixture(tmp_path, Form({**form.config, "dynamic": rules}, form.write), parts=up)
    expected = logits(p)
    with open_llm(q, activation=activation) as llm:
        runner = Runner(llm.model.executor)
        found = runner.prefill(IDS)
        assert np.array_equal(runner.prefill(IDS, chunks=[3, 1]), found)
    if activation == "float":
        same(found, expected)
    else:
        assert np.abs(found - expected).mean() < 0.05 * expected.std()


def test_plain_gates_beside_quantised_ups(tmp_path: Path) -> None:
    q, p = mixture(tmp_path, pack_quantized(4, 32), plain="gate_proj")
    same(logits(q), logits(p))


def test_one_plain_expert_among_quantised_ones_is_refused(tmp_path: Path) -> None:
    q, _ = mixture(tmp_path, awq(32), plain=r"experts\.2\.")
    with pytest.raises(UnsupportedError, match=r"experts\.2\.gate_proj.* must be stored alike"):
        logits(q)
