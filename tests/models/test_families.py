"""What families read that the fixtures do not show: defaults, older key names, values that are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import CheckpointError, PenstockError, UnsupportedError
from penstock.models.architecture import Architecture, Attention, Moe, RopeScaling
from penstock.models.common import alibi_slopes
from penstock.models.decoder import build
from penstock.models.registry import resolve
from penstock.models.rules import UnitRows
from tests.families.test_golden import FAMILIES
from tests.helpers import golden


def config(name: str, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((golden(name) / "ckpt" / "config.json").read_text())
    return {**values, **changes}


def read(name: str, **changes: Any) -> Architecture:
    values = config(name, **changes)
    return resolve(values).architecture(values)


def attention(arch: Architecture) -> Attention:
    return arch.blocks[0].attention


NONSENSE = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.integers(), st.floats(), st.text(max_size=5),
    st.lists(st.integers(-2, 9), max_size=4),
    st.dictionaries(st.sampled_from(["type", "factor", "rope_theta"]), st.sampled_from(["yarn", "dynamic", 2.0, 1])),
)  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=25)
@given(data=st.data())
def test_a_spoilt_config_is_an_error_of_ours_or_a_model(name: str, data: st.DataObject) -> None:
    """Any key replaced by anything, or absent: never another exception, and what is accepted can be built."""
    values = config(name)
    for key in data.draw(st.lists(st.sampled_from(sorted(set(values) - {"model_type"})), max_size=3)):
        if data.draw(st.booleans()):
            values.pop(key, None)
        else:
            values[key] = data.draw(NONSENSE)
    try:
        arch = resolve(values).architecture(values)
    except PenstockError:
        return
    if len(arch.blocks) < 50:
        build(arch)
        resolve(values).rules(arch, values)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_unknown_field_is_refused_by_every_family(name: str) -> None:
    with pytest.raises(UnsupportedError, match="clip_qkv"):
        read(name, clip_qkv=8.0)


def test_alibi_slopes() -> None:
    assert alibi_slopes(8) == tuple(2.0**-i for i in range(1, 9))
    assert alibi_slopes(6) == (0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125)
    assert len(alibi_slopes(40)) == 40


def test_baichuan_versions() -> None:
    assert not read("baichuan2_7b", vocab_size=64000).head.normalised
    assert read("baichuan7b", vocab_size=125696).head.normalised
    second = config("baichuan2_7b")
    rules = resolve(second).rules(read("baichuan2_7b"), second)
    assert any(isinstance(t, UnitRows) for rule in rules if rule.targets == ("head.weight",) for t in rule.transforms)
    assert attention(read("baichuan13b")).alibi
    assert not attention(read("baichuan7b")).alibi


def test_phi3_called_longrope_other_names() -> None:
    scaling = config("phi3_longrope")["rope_scaling"]
    for name in ("su", "yarn"):
        assert read("phi3_longrope", rope_scaling={**scaling, "type": name}) == read("phi3_longrope")


def test_keys_that_known_checkpoints_carry_and_that_change_nothing() -> None:
    smol = {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {"kv_cache_dtype": {}}}
    assert read("llama", **smol) == read("llama")
    with pytest.raises(UnsupportedError, match="rope_interleaved = 'True'"):
        read("llama", rope_interleaved=True)
    phi4 = {"full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False, "mlp_bias": False}
    assert read("phi3", **phi4) == read("phi3")


def test_the_first_stablelms_have_older_names() -> None:
    old = {"layer_norm_eps": None, "norm_eps": 1e-5, "partial_rotary_factor": None, "rope_pct": 0.25}
    assert read("stablelm", model_type="stablelm_epoch", rotary_scaling_factor=1.0, **old) == read("stablelm")


def test_qwen_switches() -> None:
    arch = attention(read("qwen", use_dynamic_ntk=False, use_logn_attn=False))
    assert (arch.ropes[0].scaling, arch.log_n) == (None, None)
    arch = attention(read("qwen"))
    assert (arch.ropes[0].scaling, arch.log_n) == (RopeScaling("qwen_ntk", original_length=48), 48)
    with pytest.raises(UnsupportedError, match="activation = 'gelu'"):
        read("qwen", activation="gelu")
    with pytest.raises(CheckpointError, match="must be even"):
        read("qwen", intermediate_size=175)


def test_layers_without_experts() -> None:
    def sparse(**changes: Any) -> list[bool]:
        return [isinstance(block.mlp, Moe) for block in read("qwen2_moe", **changes).blocks]

    assert sparse() == [True] * 3
    assert sparse(mlp_only_layers=[1]) == [True, False, True]
    assert sparse(decoder_sparse_step=2) == [False, True, False]
    with pytest.raises(CheckpointError, match="num_experts_per_tok must be"):
        read("qwen2_moe", num_experts_per_tok=7)


def test_gemmas_activation_is_the_tanh_form() -> None:
    for name in ("gelu", "gelu_pytorch_tanh", None):
        mlp = read("gemma", hidden_act=name, hidden_activation=None).blocks[0].mlp
        assert mlp.activation == "gelu_tanh"
    with pytest.raises(UnsupportedError, match="use_bidirectional_attention"):
        read("gemma", use_bidirectional_attention=True)


def test_gpt_neos_patterns_must_fit() -> None:
    assert [b.attention.window for b in read("gpt_neo", attention_types=[[["local"], 4]]).blocks] == [24] * 4
    with pytest.raises(CheckpointError, match="add up to 4 layers"):
        read("gpt_neo", attention_types=[[["global", "local"], 3]])
    with pytest.raises(UnsupportedError, match="'strided'"):
        read("gpt_neo", attention_types=[[["strided"], 4]])


def test_chatglm_with_a_prefix_inside_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="pre_seq_len"):
        read("chatglm", pre_seq_len=128)
    assert read("chatglm", pre_seq_len=None, prefix_projection=False) == read("chatglm")
    assert attention(read("chatglm2", multi_query_attention=False)).kv_heads == 6


def test_of_families_that_are_equally_near_the_plainest_is_named() -> None:
    config = {
        "model_type": "olmo", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64, "hidden_act": "silu",
    }  # fmt: skip
    with pytest.raises(UnsupportedError, match="most like 'llama'"):
        resolve(config)
