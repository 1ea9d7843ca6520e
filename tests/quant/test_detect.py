"""Which format a configuration means, which wishes it allows, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.checkpoints.source import TensorInfo
from penstock.errors import ConfigError, PenstockError, UnsupportedError
from penstock.quant.awq import AwqScheme
from penstock.quant.coded import CodedScheme
from penstock.quant.detect import detect, schemes
from penstock.quant.gptq import GptqScheme
from penstock.quant.packed import PackedScheme

F16, I32 = np.dtype(np.float16), np.dtype(np.int32)
CT_WEIGHTS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}


class Names:
    """A source of which only names and types are asked."""

    def __init__(self, **types: Any) -> None:
        self.types = {name.replace("__", "."): np.dtype(dtype) for name, dtype in types.items()}

    def names(self) -> list[str]:
        return list(self.types)

    def info(self, name: str) -> TensorInfo:
        return TensorInfo(name, self.types[name], (2, 2), 0, Path("names"))


def ct(weights: dict[str, Any] | None = None, **group: Any) -> dict[str, Any]:
    group = {"weights": {**CT_WEIGHTS, **(weights or {})}, "targets": ["Linear"], "format": "pack-quantized", **group}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, "ignore": ["lm_head"]}


def scheme(config: dict[str, Any], name: str = "m.weight", **types: Any) -> Any:
    return schemes({"quantization_config": config}, Names(**types))(name)


# ---------------------------------------------------------------------------------------------------------- methods


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, AwqScheme(64)),
        ({"quant_method": "AWQ", "w_bit": 4, "q_group_size": 32, "version": "GEMM"}, AwqScheme(32)),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": False}, GptqScheme(4, 128, False)),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1, "checkpoint_format": "gptq_v2"},
         GptqScheme(8, -1, True, True)),
        ({"bits": 4, "group_size": 128, "desc_act": True, "sym": True}, GptqScheme(4, 128, True)),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]},
         CodedScheme("fp8", "weight_scale_inv", block=(128, 128), act="fp8")),
        ({"quant_method": "fp8", "activation_scheme": "static"}, CodedScheme("fp8", act="fp8")),
        ({"quant_method": "fbgemm_fp8"}, CodedScheme("fbgemm_fp8", act="fp8")),
        ({"quant_method": "w8a8_int8"}, CodedScheme("smoothquant", act="int8")),
        ({"quant_method": "smooth_quant", "quant_dtype": "int8"}, CodedScheme("smoothquant", "scale", act="int8")),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": True, "packing_format":
          "auto_round:auto_gptq", "autoround_version": "0.5.1"}, GptqScheme(4, 128, True)),
        ({"quant_method": "intel/auto-round", "bits": 8, "group_size": 64, "sym": False}, GptqScheme(8, 64, False)),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 128, "packing_format": "auto_round:auto_awq"},
         AwqScheme(128)),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 128, "extra_config": {
            "m": {"bits": 8, "group_size": 32}, "other": {"bits": 16}}}, GptqScheme(8, 32, True)),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 128, "extra_config": {"^m$": {"group_size": 32}}},
         GptqScheme(4, 32, True)),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": ["lm_head"]},
         CodedScheme("modelopt", act="fp8")),
        ({"quant_method": "modelopt", "producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}},
         CodedScheme("modelopt", act="fp8")),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"+:m": {"group_size": 32, "mse": 2.4}}},
         GptqScheme(4, 32, True)),
        (ct({"num_bits": 4, "strategy": "channel"}, format="int-quantized"), CodedScheme("int-quantized")),
        (ct(), PackedScheme(4, True, 128)),
        (ct({"num_bits": 8, "strategy": "channel", "group_size": None}), PackedScheme(8, True)),
        (ct({"num_bits": 8, "strategy": "channel"}, format="int-quantized",
            input_activations={"num_bits": 8, "type": "int"}), CodedScheme("int-quantized", act="int8")),
        (ct({"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 64]},
            format="float-quantized"), CodedScheme("float-quantized", block=(128, 64))),
    ],
)  # fmt: skip
def test_what_a_configuration_means(config: dict[str, Any], expected: Any) -> None:
    for key in ("quantization_config", "compression_config"):
        assert schemes({key: config}, Names(m__qweight=I32, m__weight_packed=I32))("m.weight") == expected
    nested = {"text_config": {"quantization_config": config}}
    assert schemes(nested, Names(m__qweight=I32))("m.weight") == expected


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"quant_method": "bitsandbytes"}, "'bitsandbytes' cannot be read"),
        ({"quant_method": "gtpq"}, "did you mean 'gptq'"),
        ({"quant_method": None, "x": 1}, "no quant_method; set it to one of awq, gptq"),
        ({"quant_method": "awq", "bits": 3}, "AWQ of 3 bits"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv_fast"}, "layout 'gemv_fast'"),
        ({"quant_method": "gptq", "bits": 3}, "GPTQ of 3 bits"),
        ({"quant_method": "gptq", "bits": "four"}, "bits must be a whole number"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "layout 'marlin'"),
        ({"quant_method": "gptq", "bits": 4, "is_marlin_format": True}, "layout 'marlin'"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"+:a": {"adapter": 1}}}, "unknown parts: ..adapter"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"+:(a+)+$": {}}}, "more than a pattern of names needs"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"+:[": {}}}, "no regular expression"),
        ({"quant_method": "auto-round", "bits": 4, "packing_format": "auto_round:exllamav2"}, "layout 'exllamav2'"),
        ({"quant_method": "auto-round", "bits": 2}, "GPTQ of 2 bits"),
        ({"quant_method": "auto-round", "bits": 4, "data_type": "mx_fp"}, "only whole ones"),
        ({"quant_method": "auto-round", "bits": 4, "act_bits": 8}, "inputs of 16 bits"),
        ({"quant_method": "auto-round", "bits": 4, "extra_config": ["m"]}, "extra_config must be"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "ModelOpt's 'NVFP4'"),
        ({"quant_method": "modelopt", "quantization": "FP8"}, "quantization must be an object"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "'e5m2'"),
        ({"quant_method": "fp8", "weight_block_size": [128, 0]}, "not two sizes"),
        (ct({"num_bits": 2}), "2 bits"),
        (ct({"num_bits": 4, "type": "float"}), "4 bits"),
        (ct({"strategy": "tensor_group"}), "'tensor_group'"),
        (ct(format="marlin-24"), "'marlin-24'"),
        (ct(format="nvfp4-pack-quantized"), "'nvfp4-pack-quantized'"),
        (ct(input_activations={"num_bits": 4, "type": "int"}), "inputs of 4 bits"),
        (ct(weights=None) | {"config_groups": {}}, "config_groups"),
        (ct() | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "'sparse-24-bitmask'"),
        (ct() | {"transform_config": {"config_groups": {"R1": {}}}}, "transforms of the inputs"),
        (ct() | {"ignore": "lm_head"}, "ignore must list names"),
        ("awq", "must be an object"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(config: Any, said: str) -> None:
    with pytest.raises(UnsupportedError, match=said):
        scheme(config, m__qweight=I32)


# ------------------------------------------------------------------------------------------------------ each weight


def test_the_file_says_which_weights_are_quantised() -> None:
    awq = {"quant_method": "awq", "bits": 4, "modules_to_not_convert": ["visual"]}
    source = Names(a__qweight=I32, b__weight=F16, visual__x__weight=F16, c__weight=np.int8)
    found = schemes({"quantization_config": awq}, source)
    assert found("a.weight").name == "awq"
    assert [found(name).name for name in ("b.weight", "visual.x.weight", "c.weight")] == ["dense"] * 3
    assert found("gone.weight").name == "awq", "what is missing is looked for in the checkpoint's form"
    assert found("visual.gone.weight").name == "dense"
    assert found("a.bias").name == "dense"
    fp8 = {"quant_method": "fp8", "modules_to_not_convert": ["lm_head"]}
    found = schemes({"quantization_config": fp8}, Names(a__weight=ml_dtypes.float8_e4m3fn, lm_head__weight=F16))
    assert found("a.weight").name == "fp8"
    assert found("lm_head.weight").name == "dense"


def test_rules_by_name() -> None:
    config = {"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {
        r"-:model\.layers\.0\..*": {}, r"+:.*down_proj.*": {"bits": 8, "group_size": 64}}}  # fmt: skip
    found = schemes({"quantization_config": config}, Names())
    assert found("model.layers.0.up_proj.weight").name == "dense"
    assert found("model.layers.1.up_proj.weight") == GptqScheme(4, 128, True)
    assert found("model.layers.1.down_proj.weight") == GptqScheme(8, 64, True)
    groups = ct()["config_groups"] | {
        "group_1": ct({"num_bits": 8}, targets=["re:.*down_proj$"])["config_groups"]["group_0"]
    }
    mixed = ct() | {"config_groups": groups, "ignore": ["re:.*gate$", "lm_head"]}
    found = schemes({"quantization_config": mixed}, Names())
    assert found("m.up_proj.weight") == PackedScheme(4, True, 128)
    assert found("m.down_proj.weight") == PackedScheme(8, True, 128)
    assert [found(name).name for name in ("m.mlp.gate.weight", "lm_head.weight")] == ["dense"] * 2


# ----------------------------------------------------------------------------------------------------------- wishes


@pytest.mark.parametrize(
    ("method", "wishes"),
    [
        ({"quant_method": "awq"}, ["awq", "AWQ", "awq_marlin", None, "auto", "none"]),
        ({"quant_method": "gptq", "bits": 4}, ["gptq", "gptq_marlin", "marlin"]),
        (ct(), ["compressed-tensors", "compressed_tensors"]),
        ({"quant_method": "fp8"}, ["fp8"]),
    ],
)
def test_wishes_that_say_what_is_there(method: dict[str, Any], wishes: list[str | None]) -> None:
    for wish in wishes:
        assert detect({"quantization_config": method}, Names(), wish).convert is None


@pytest.mark.parametrize(
    ("config", "wish", "said"),
    [
        ({"quant_method": "awq"}, "gptq", r"'gptq': the checkpoint is quantised already \(awq\)"),
        (
            {"quant_method": "gptq", "bits": 4},
            "fp8",
            r"already \(gptq\); .*or say int8 or int4 for what is plain in it",
        ),
        (None, "awq", "plain numbers, not awq; .*int8 or int4"),
        (None, "gguf", "plain numbers, not gguf"),
        (None, "int44", r"unknown \(did you mean 'int4'\?\)"),
    ],
)
def test_wishes_that_contradict_are_told(config: Any, wish: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        detect({"quantization_config": config} if config else {}, Names(), wish)


class Blocks(Names):
    """A GGUF file's tensors."""

    def block_type(self, name: str) -> str:
        return "q4_0"


@pytest.mark.parametrize("wish", ["int8", "wint4"])
def test_wishes_for_what_is_plain_in_a_quantised_checkpoint(wish: str) -> None:
    for config, source, method in (({"quantization_config": {"quant_method": "awq"}}, Names(), "awq"),
                                   ({}, Blocks(), "gguf")):  # fmt: skip
        found = detect(config, source, wish)
        assert found.convert is not None and found.method == f"{method}, {wish.removeprefix('w')}"


@pytest.mark.parametrize("wish", ["int8", "INT4", "weight_only_int8", "weight_only_int4", "wint8"])
def test_wishes_for_plain_numbers(wish: str) -> None:
    found = detect({}, Names(), wish)
    assert found.convert is not None and found.method in ("int8", "int4")
    assert found.scheme_for("a.weight").name == "dense"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["awq", "gptq", "fp8", "compressed-tensors", "re:.*", "group", "int", 4, 8, "pack-quantized"]),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(
        st.sampled_from(["weights", "num_bits", "type", "strategy", "targets", "group_0", "format", "a"]), x, max_size=4
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["quant_method", "bits", "group_size", "sym", "dynamic", "config_groups", "ignore", "version",
                         "format", "weight_block_size", "fmt", "modules_to_not_convert", "sparsity_config",
                         "transform_config", "checkpoint_format", "extra_config", "packing_format", "quantization"]),
        VALUES,
    ),
    st.sampled_from(["awq", "gptq", "fp8", "compressed-tensors", "smoothquant", "auto-round", "modelopt", None]),
)  # fmt: skip
def test_any_configuration_is_read_or_refused(config: dict[str, Any], method: str | None) -> None:
    if method:
        config = {**config, "quant_method": method}
    try:
        schemes({"quantization_config": config}, Names(m__qweight=I32))("m.weight")
    except PenstockError as error:
        if "\n" in str(error):
            raise
