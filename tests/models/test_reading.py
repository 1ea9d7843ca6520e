"""Configurations: values out of range are refused, fields that are not understood are all named."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.errors import CheckpointError, UnsupportedError
from penstock.models.architecture import Norm, RopeScaling
from penstock.models.reading import Reader
from penstock.models.registry import CLASSES, FILES, family, resolve

LLAMA: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 100, "hidden_size": 64,
    "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "torch_dtype": "float16", "transformers_version": "4.40.1", "use_cache": True, "bos_token_id": 1,
    "quantization_config": {"quant_method": "awq"}, "pretraining_tp": 1, "rope_scaling": None,
}  # fmt: skip


def read(**changes: Any) -> Any:
    config = {**LLAMA, **changes}
    return resolve(config).architecture(config)


def test_absent_fields_have_the_defaults_of_transformers() -> None:
    arch = read()
    assert arch.context_length == 2048
    assert arch.final_norm == Norm("rms", 1e-6)
    attention = arch.blocks[0].attention
    assert (attention.heads, attention.kv_heads, attention.head_dim, attention.scale) == (4, 2, 16, 0.25)
    assert attention.ropes[0].theta == 10000.0
    assert not arch.head.tied
    assert read(num_key_value_heads=None).blocks[0].attention.kv_heads == 4
    assert read(model_type="mistral").blocks[0].attention.window == 4096
    assert read(model_type="mistral", sliding_window=None).blocks[0].attention.window is None


def test_all_fields_not_understood_are_named_at_once() -> None:
    with pytest.raises(UnsupportedError) as error:
        read(hidden_act="swish2", rope_scaling={"rope_type": "su9", "wavelets": 3}, use_moe=True, logit_scale=2.0)
    text = str(error.value)
    for field in ("hidden_act = 'swish2' (did you mean 'swish'?)", "rope_scaling.rope_type = 'su9'",
                  "rope_scaling.wavelets", "use_moe", "logit_scale"):  # fmt: skip
        assert field in text
    assert "torch_dtype" not in text


def test_a_null_or_a_switch_that_is_off_is_harmless() -> None:
    assert read(model_type="qwen2", some_new_thing=None, attention_bias=False, mlp_bias=False) == read(
        model_type="qwen2"
    )
    with pytest.raises(UnsupportedError, match="attention_bias = 'True'"):
        read(model_type="mistral", attention_bias=True)
    with pytest.raises(UnsupportedError, match="is_encoder_decoder"):
        read(is_encoder_decoder=True)


@pytest.mark.parametrize("name", ["LlamaForSequenceClassification", "LlamaForQuestionAnswering"])
def test_a_model_that_predicts_no_tokens_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedError, match=name):
        read(architectures=[name])


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("hidden_size", 0, "hidden_size must be a whole number from 1 to 1048576, found '0'"),
        ("hidden_size", -64, "hidden_size must be"),
        ("hidden_size", "64", "hidden_size must be"),
        ("hidden_size", True, "hidden_size must be"),
        ("hidden_size", 10**12, "hidden_size must be"),
        ("hidden_size", 62, r"hidden_size \(62\) must be a multiple of num_attention_heads \(4\)"),
        ("hidden_size", None, "'hidden_size' is missing"),
        ("num_hidden_layers", 10**9, "num_hidden_layers must be"),
        ("num_key_value_heads", 3, r"num_attention_heads \(4\) must be a multiple of num_key_value_heads \(3\)"),
        ("head_dim", 15, "rotary embedding of 15 elements"),
        ("vocab_size", 2**40, "vocab_size must be"),
        ("rms_norm_eps", float("nan"), "rms_norm_eps must be a number"),
        ("rms_norm_eps", -1e-6, "rms_norm_eps must be"),
        ("rope_theta", 0, "rope_theta must be"),
        ("rope_theta", "big", "rope_theta must be"),
        ("tie_word_embeddings", 1, "tie_word_embeddings must be true or false"),
        ("rope_scaling", [1], "rope_scaling must be an object"),
        ("rope_scaling", {"type": "linear"}, "rope_scaling.factor' is missing"),
        ("rope_scaling", {"type": "dynamic", "factor": 0}, "rope_scaling.factor must be"),
        ("rope_scaling", {"type": "longrope", "short_factor": [1], "long_factor": [1] * 8}, "short_factor must list 8"),
        ("rope_scaling", {"type": "longrope", "short_factor": [0] * 8, "long_factor": [1] * 8}, "short_factor must be"),
        ("rope_scaling", {"type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 4}, "must be above"),
    ],
)  # fmt: skip
def test_values_out_of_range(field: str, value: Any, complaint: str) -> None:
    with pytest.raises(CheckpointError, match=complaint):
        read(**{field: value})


def test_old_and_new_forms_of_rotary_scaling_are_one() -> None:
    old = read(rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2.0})
    new = read(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5})
    assert old == new
    assert old.blocks[0].attention.ropes[0].scaling == RopeScaling("linear", factor=2.0)


def test_original_length_comes_from_the_top_then_the_scaling_then_the_context() -> None:
    def original(**changes: Any) -> int:
        scaling = {"type": "yarn", "factor": 2.0, **changes.pop("inside", {})}
        return int(read(rope_scaling=scaling, **changes).blocks[0].attention.ropes[0].scaling.original_length)

    assert original() == 2048
    assert original(inside={"original_max_position_embeddings": 512}) == 512
    assert original(inside={"original_max_position_embeddings": 512}, original_max_position_embeddings=256) == 256


def test_layers_with_windows() -> None:
    def windows(**changes: Any) -> list[int | None]:
        return [b.attention.window for b in read(model_type="qwen2", num_hidden_layers=4, **changes).blocks]

    on = {"use_sliding_window": True, "sliding_window": 7}
    assert windows(**on, max_window_layers=2) == [None, None, 7, 7]
    assert windows(sliding_window=7, max_window_layers=2) == [None] * 4
    layers = ["sliding_attention", "full_attention"] * 2
    assert windows(**on, layer_types=layers) == [7, None, 7, None]
    with pytest.raises(CheckpointError, match="layer_types must list 4 layers"):
        windows(**on, layer_types=layers[:3])
    with pytest.raises(UnsupportedError, match="layer_types = 'linear_attention'"):
        windows(**on, layer_types=["linear_attention"] * 4)


def test_an_unknown_family_names_the_nearest_and_the_difference() -> None:
    with pytest.raises(
        UnsupportedError, match=r"'llamoid' is not supported.*reads most like 'llama'.*differs in wings"
    ):
        read(model_type="llamoid", wings=2)
    with pytest.raises(UnsupportedError, match=r"reads most like 'llama', whose fields it has.*hf_overrides"):
        read(model_type="my_llama")
    with pytest.raises(UnsupportedError, match=r"'t5' is not supported; known families: .*llama"):
        resolve({"model_type": "t5", "d_model": 512, "d_kv": 64, "num_layers": 6})


def test_a_config_without_model_type() -> None:
    config = {k: v for k, v in LLAMA.items() if k != "model_type"}
    assert resolve(config).name == "llama"
    with pytest.raises(CheckpointError, match="no model_type"):
        resolve({"hidden_size": 3})


@pytest.mark.parametrize("file", sorted(set(FILES.values())))
def test_every_family_can_be_imported_and_lists_itself(file: str) -> None:
    found = family(file)
    assert all(FILES[model_type] == file for model_type in found.model_types)
    assert {m for m, f in FILES.items() if f == file} == set(found.model_types)


def test_classes_lead_to_families() -> None:
    assert set(CLASSES.values()) <= set(FILES)


def test_a_reader_takes_the_first_name_that_has_a_value() -> None:
    r = Reader({"a": None, "b": 3, "c": 4})
    assert r.whole("a", "b", "c") == 3
    assert r.unread() == []
    assert r.whole("d", default=7) == 7
    assert Reader({"n": 3.0}).whole("n") == 3
