"""Families in GGUF for which there is no file of reference: written here as llama.cpp's converter does, under the names
that its library gives them, and run beside the checkpoint they come from."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.checkpoints.folder import Checkpoint
from penstock.errors import CheckpointError, PenstockError, UnsupportedError
from penstock.models.architecture import Rope, RopeScaling
from penstock.models.registry import resolve
from penstock.models.rope import frequencies, inverse
from tests.checkpoints.gguf_files import write
from tests.harness import open_runner
from tests.helpers import golden

Array = np.ndarray
Change = Callable[[str, Array, dict[str, Any]], dict[str, Array]]


def pairs(w: Array, heads: int) -> Array:
    """Rows of halves as rows of neighbours."""
    return w.reshape(heads, 2, -1, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def same(name: str, w: Array, c: dict[str, Any]) -> dict[str, Array]:
    return {name: w}


def llama(name: str, w: Array, c: dict[str, Any]) -> dict[str, Array]:
    for which, heads in (("q", c["num_attention_heads"]), ("k", c["num_key_value_heads"])):
        if f".{which}_proj." in name:
            return {name: pairs(w, heads)}
    return {name: w}


def one_added(name: str, w: Array, c: dict[str, Any]) -> dict[str, Array]:
    return {name: w + 1 if name.endswith("norm.weight") else w}


def neox(name: str, w: Array, c: dict[str, Any]) -> dict[str, Array]:
    if "query_key_value" not in name:
        return {name: w}
    return {name: w.reshape(c["num_attention_heads"], 3, -1, *w.shape[1:]).swapaxes(0, 1).reshape(w.shape)}


def internlm(name: str, w: Array, c: dict[str, Any]) -> dict[str, Array]:
    if ".wqkv." not in name:
        return {name: w}
    heads, groups = c["num_attention_heads"], c["num_key_value_heads"]
    each = heads // groups
    grouped = w.reshape(groups, each + 2, -1, w.shape[1])
    q, k, v = (part.reshape(-1, w.shape[1]) for part in (grouped[:, :each], grouped[:, -2], grouped[:, -1]))
    at = name.replace("attention.wqkv", "attention.{}")
    return {at.format("wq"): pairs(q, heads), at.format("wk"): pairs(k, groups), at.format("wv"): v}


def experts(name: str, w: Array, c: dict[str, Any]) -> dict[str, Array]:
    return {name: w}


def usual(c: dict[str, Any], arch: str, **more: Any) -> dict[str, Any]:
    dim = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    found = {
        "context_length": c["max_position_embeddings"], "embedding_length": c["hidden_size"],
        "block_count": c["num_hidden_layers"], "feed_forward_length": c["intermediate_size"],
        "attention.head_count": c["num_attention_heads"],
        "attention.head_count_kv": c.get("num_key_value_heads", c["num_attention_heads"]),
        "rope.freq_base": float(c.get("rope_theta", 10000.0)),
        "rope.dimension_count": int(dim * c.get("partial_rotary_factor", c.get("rotary_pct", 1.0))),
        "attention.layer_norm_rms_epsilon": c.get("rms_norm_eps"),
        "attention.layer_norm_epsilon": c.get("layer_norm_eps"),
        "attention.key_length": dim, "attention.value_length": dim, **more,
    }  # fmt: skip
    return {f"{arch}.{key}": value for key, value in found.items() if value is not None}


CASES: dict[str, tuple[str, str, Change, dict[str, Any], dict[str, Any]]] = {
    # fixture: architecture of llama.cpp, of its library, what the converter changes, other metadata, other config
    "llama": ("llama", "LLAMA", llama, {}, {}),
    "llama_bias": ("llama", "LLAMA", llama, {}, {}),
    "llama_linear": ("llama", "LLAMA", llama, {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, {}),
    "llama3": ("llama", "LLAMA", llama, {}, {}),
    "mistral": ("llama", "LLAMA", llama, {}, {"sliding_window": None}),
    "qwen2_yarn": ("qwen2", "QWEN2", same, {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
                                            "rope.scaling.original_context_length": 64}, {}),
    "qwen3": ("qwen3", "QWEN3", same, {}, {}),
    "qwen3_moe": ("qwen3moe", "QWEN3MOE", experts, {"expert_count": 6, "expert_used_count": 2,
                                                    "expert_feed_forward_length": 40}, {}),
    "gemma": ("gemma", "GEMMA", one_added, {}, {}),
    "gemma2": ("gemma2", "GEMMA2", one_added, {"attn_logit_softcapping": 4.0, "final_logit_softcapping": 6.0,
                                               "attention.sliding_window": 24}, {"query_pre_attn_scalar": 16}),
    "gemma3_text": ("gemma3", "GEMMA3", one_added, {"attention.sliding_window": 24},
                    {"query_pre_attn_scalar": 16, "sliding_window_pattern": 6}),
    "phi3": ("phi3", "PHI3", same, {"attention.sliding_window": 48}, {}),
    "phi3_longrope": ("phi3", "PHI3", same, {
        "attention.sliding_window": 400, "rope.scaling.original_context_length": 64,
        "rope.scaling.attn_factor": math.sqrt(1 + math.log(8) / math.log(64))}, {}),
    "glm": ("chatglm", "CHATGLM", same, {}, {}),
    "glm4": ("glm4", "GLM4", same, {}, {}),
    "stablelm": ("stablelm", "STABLELM", same, {"use_parallel_residual": False}, {}),
    "gpt_neox": ("gptneox", "GPTNEOX", neox, {"use_parallel_residual": True}, {}),
    "internlm2": ("internlm2", "INTERNLM2", internlm, {}, {}),
    "qwen_plain": ("qwen", "QWEN", same, {"attention.layer_norm_rms_epsilon": 1e-6, "feed_forward_length": 176,
                                          "context_length": 8192}, {}),
}  # fmt: skip


def factors(name: str, c: dict[str, Any]) -> dict[str, Array]:
    """Tensors of rotary factors."""
    scaling = c.get("rope_scaling") or {}
    if name == "phi3_longrope":
        return {f"rope_factors_{x}.weight": np.array(scaling[f"{x}_factor"], np.float32) for x in ("long", "short")}
    if scaling.get("rope_type") != "llama3":
        return {}
    rule = RopeScaling("llama3", factor=scaling["factor"], original_length=scaling["original_max_position_embeddings"])
    theta, dim = c["rope_theta"], c["hidden_size"] // c["num_attention_heads"]
    plain = inverse(theta, dim)
    return {"rope_freqs.weight": plain / np.array(frequencies(Rope(dim, theta, scaling=rule)).inv_freq, np.float32)}


def convert(
    name: str,
    path: Path,
    config: dict[str, Any] | None = None,
    old: bool = False,
    turn: int | None = None,
    extra: dict[str, Array] | None = None,
    **more: Any,
) -> tuple[Path, dict[str, Any]]:
    """The fixture ``name`` as a GGUF file, and the configuration that it stands for."""
    gguf = pytest.importorskip("gguf")
    arch, library, change, metadata, other = CASES[name]
    with Checkpoint.open(golden(name) / "ckpt") as checkpoint:
        config = config or checkpoint.config
        layers = config["num_hidden_layers"]
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[library], layers)
        tensors: dict[str, Array] = {}
        stacks: dict[str, list[Array]] = {}
        source = checkpoint.weights
        assert source is not None
        for original in sorted(source.names()):
            array = np.array(source.get(original), np.float32)
            for changed, w in change(original, array, config).items():
                if ".experts." in changed:
                    head, _, tail = changed.partition(".experts.")
                    stacks.setdefault(f"{head}.experts.{tail.partition('.')[2]}", []).append(w)
                    continue
                found = names.get_name(changed, try_suffixes=(".weight", ".bias"))
                assert found is not None, changed
                tensors[found] = w
        for stacked, parts in stacks.items():
            found = names.get_name(stacked, try_suffixes=(".weight",))
            apart = {found.replace("_exps", f".{e}"): w for e, w in enumerate(parts)}
            tensors |= apart if old else {found: np.stack(parts)}
    facts = usual({"intermediate_size": 0, **config}, arch, **{**metadata, **more})
    tensors |= factors(name, config) | (extra or {})
    if turn is not None:
        facts["tokenizer.ggml.eot_token_id"] = turn
    facts |= {"general.architecture": arch, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.bos_token_id": 1}
    facts |= {"tokenizer.ggml.model": "none", f"{arch}.vocab_size": len(tensors["token_embd.weight"])}
    return write(path / f"{name}.gguf", facts, tensors), {**config, **other}


@pytest.mark.parametrize("name", CASES)
def test_the_file_is_the_checkpoint(name: str, tmp_path: Path) -> None:
    path, config = convert(name, tmp_path)
    ids = np.random.default_rng(3).integers(3, 300, 100).tolist()
    with open_runner(golden(name) / "ckpt", config=config) as runner:
        expected = runner.prefill(ids)
    with open_runner(path) as runner:
        found = runner.prefill(ids)
    assert np.abs(found - expected).max() < 2e-5 * max(1.0, float(expected.std()))
    with Checkpoint.open(path) as checkpoint:
        assert (checkpoint.config["bos_token_id"], checkpoint.config["eos_token_id"]) == (1, 2)


def test_experts_apart_as_files_had_them_before_2024(tmp_path: Path) -> None:
    path, config = convert("qwen3_moe", tmp_path, old=True)
    ids = list(range(40))
    with open_runner(golden("qwen3_moe") / "ckpt", config=config) as one, open_runner(path) as other:
        assert np.abs(one.prefill(ids) - other.prefill(ids)).max() < 2e-5


def test_the_end_of_a_turn_ends_an_answer(tmp_path: Path) -> None:
    path, _ = convert("llama", tmp_path, turn=7)
    with Checkpoint.open(path) as checkpoint:
        assert checkpoint.config["eos_token_id"] == [2, 7]


@pytest.mark.parametrize("name", ["model.GGUF", "sha256-0011aabb"])
def test_a_file_is_known_by_its_first_bytes(tmp_path: Path, name: str) -> None:
    """As Ollama keeps them, or in capitals."""
    path, _ = convert("llama", tmp_path)
    other = path.rename(tmp_path / name)
    with Checkpoint.open(other) as checkpoint:
        assert checkpoint.config["gguf"] == "llama"


def test_files_that_are_no_models_say_what_they_are(tmp_path: Path) -> None:
    for facts, said in (
        ({"general.architecture": "llama", "general.type": "adapter"}, "an adapter"),
        ({"general.architecture": "clip", "general.type": "mmproj"}, "what sees pictures"),
        ({"general.architecture": "clip"}, "what sees pictures"),
        ({"general.type": "imatrix"}, "statistics of activations"),
    ):
        path = write(tmp_path / "other.gguf", facts, {"x": np.zeros((2, 32), np.float32)})
        with pytest.raises(UnsupportedError, match=f"holds {said}.*give the model's own file"):
            Checkpoint.open(path)


def test_llama_3_s_factors_are_known_again(tmp_path: Path) -> None:
    with Checkpoint.open(golden("llama3") / "ckpt", weights=False) as checkpoint:
        config = checkpoint.config
    config["rope_scaling"] = {**config["rope_scaling"], "original_max_position_embeddings": 8192}
    path, _ = convert("llama3", tmp_path, config)
    with Checkpoint.open(path) as checkpoint:
        assert checkpoint.config["rope_scaling"] == config["rope_scaling"]


def test_metadata_that_makes_no_sense_is_told(tmp_path: Path) -> None:
    for key, value, said in (
        ("block_count", "three", "llama.block_count must be a whole number"),
        ("attention.head_count", 0, "head_count is 0"),
        ("rope.freq_base", float("nan"), "must be a number"),
        ("attention.head_count_kv", [2, 1, 2], "differs from layer to layer"),
        ("attention.value_length", 8, "different lengths"),
        ("rope.scaling.type", "magic", "'magic' is not supported"),
        ("feed_forward_length", 7, r"must be \[7, 72\], found \[188, 72\]"),
        ("block_count", 1, "left over"),
        ("block_count", 9, "missing"),
    ):
        changed: dict[str, Any] = {key: value} | ({"rope.scaling.factor": 2.0} if "type" in key else {})
        path, _ = convert("llama", tmp_path, **changed)
        with pytest.raises((CheckpointError, UnsupportedError), match=said), open_runner(path):
            pass


ODD = st.one_of(
    st.integers(0, 2**32 - 1),
    st.integers(0, 9),
    st.floats(width=32),
    st.booleans(),
    st.sampled_from(["linear", "yarn", "longrope", ""]),
    st.lists(st.integers(0, 9), min_size=1, max_size=4),
)


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(sorted(CASES)), data=st.data())
def test_any_metadata_make_a_model_or_a_message(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Facts of a sound file, some of them changed or gone, and tensors of other shapes."""
    arch, _, _, metadata, _ = CASES[name]
    with Checkpoint.open(golden(name) / "ckpt", weights=False) as checkpoint:
        facts = usual({"intermediate_size": 0, **checkpoint.config}, arch, **metadata)
    for key in data.draw(st.sets(st.sampled_from(sorted(facts)), max_size=3)):
        facts[key] = data.draw(ODD)
    for key in data.draw(st.sets(st.sampled_from(sorted(facts)), max_size=2)):
        del facts[key]
    shapes = {"token_embd.weight": (30, 72), "blk.0.ffn_up.weight": (8, 72), "blk.0.ffn_up_exps.weight": (2, 8, 72)}
    shapes |= data.draw(st.dictionaries(
        st.sampled_from([*shapes, "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight",
                         "blk.0.attn_qkv.weight", "output.weight"]),
        st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple), max_size=4,
    ))  # fmt: skip
    path = tmp_path_factory.getbasetemp() / "odd.gguf"
    write(path, {**facts, "general.architecture": arch}, {n: np.ones(s, np.float32) for n, s in shapes.items()})
    try:
        with Checkpoint.open(path) as checkpoint:
            resolve(checkpoint.config).architecture(checkpoint.config)
    except PenstockError as error:
        if "\n" in str(error):
            raise


@pytest.mark.parametrize("count", [1, 3, 9])
def test_rotary_factors_of_another_length_are_told(tmp_path: Path, count: int) -> None:
    path, _ = convert("llama", tmp_path, extra={"rope_freqs.weight": np.ones(count, np.float32)})
    with pytest.raises(CheckpointError, match=f"rope_freqs.weight has {count} factors for"):
        Checkpoint.open(path)


def test_heads_of_no_width_are_told(tmp_path: Path) -> None:
    none: dict[str, Any] = {"attention.key_length": 0, "attention.value_length": 0}
    path, _ = convert("llama", tmp_path, **none)
    with pytest.raises(CheckpointError, match="heads of no width"):
        Checkpoint.open(path)
