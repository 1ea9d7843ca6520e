"""Adapters on disk that are damaged, another model's, or of a kind that is not served: each is told by name."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from penstock.checkpoints.adapters import Base, LoraAdapter, PrefixAdapter, PromptAdapter, open_adapter
from penstock.checkpoints.lora import _fits
from penstock.errors import CheckpointError, PenstockError, UnsupportedError
from penstock.models.decoder import build
from penstock.models.registry import resolve
from tests.adapters.some import base_of, q_lora, write_peft
from tests.harness import open_arch
from tests.helpers import golden

Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base() -> Base:
    return base_for("peft_lora_all_r8")


def base_for(name: str, model: Path | None = None) -> Base:
    place = model or base_of(name)
    config = json.loads((place / "config.json").read_text())
    family = resolve(config)
    return Base(build(open_arch(place)), family.rules(family.architecture(config), config))


def test_what_is_read(base: Base) -> None:
    lora = open_adapter(golden("peft_lora_subset_qv") / "adapter", base, 64)
    assert isinstance(lora, LoraAdapter)
    assert sorted(lora.factors) == sorted(f"layers.{i}.attn.{x}.weight" for i in (0, 2) for x in "qv")
    a, b, scale = lora.factors["layers.2.attn.v.weight"]
    assert (a.shape, b.shape, scale, lora.rank) == ((4, 96), (24, 4), 8.0, 4)
    prefix = open_adapter(golden("peft_prefix_tuning") / "adapter", base, 64)
    assert isinstance(prefix, PrefixAdapter)
    assert (prefix.rows, len(prefix.layers), prefix.shifts) == (7, 3, True)
    prompt = open_adapter(golden("peft_prompt_tuning") / "adapter" / "adapter_model.safetensors", base, 64)
    assert isinstance(prompt, PromptAdapter)
    assert prompt.embeds.shape == (6, 96)


def test_the_scale(base: Base, tmp_path: Path) -> None:
    for config, scale in (
        ({}, 2.0),
        ({"use_rslora": True}, 4 / 2**0.5),
        ({"alpha_pattern": {"q_proj": 7}}, 3.5),
        ({"alpha_pattern": {"k_proj": 7, "layers.0.self_attn.q_proj": 8}}, 4.0),
        ({"alpha_pattern": {"layers\\.[0-3]\\..*q_proj": 10}}, 5.0),
        ({"alpha_pattern": {"proj": 7}}, 2.0),
        ({"r": 8, "rank_pattern": {"q_proj": 2}}, 2.0),
    ):
        found = open_adapter(write_peft(tmp_path, q_lora(), config), base, 64)
        assert isinstance(found, LoraAdapter)
        assert found.factors["layers.0.attn.q.weight"][2] == pytest.approx(scale)


def test_a_file_of_torch(base: Base, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    folder = write_peft(tmp_path / "a", q_lora())
    expected = open_adapter(folder, base, 64)
    tensors = {name: torch.from_numpy(a) for name, a in load_file(folder / "adapter_model.safetensors").items()}
    torch.save(tensors, folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    found = open_adapter(folder, base, 64)
    assert isinstance(found, LoraAdapter)
    assert isinstance(expected, LoraAdapter)
    for a, b in zip(found.factors["layers.0.attn.q.weight"], expected.factors["layers.0.attn.q.weight"], strict=True):
        np.testing.assert_array_equal(a, b)


def test_half_precision_factors(base: Base, tmp_path: Path) -> None:
    found = open_adapter(write_peft(tmp_path, {n: a.astype(np.float16) for n, a in q_lora().items()}), base, 64)
    assert isinstance(found, LoraAdapter)
    assert found.factors["layers.0.attn.q.weight"][0].dtype == np.float32


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported"),
        ({"peft_type": "LORAX"}, "did you mean 'LORA'"),
        ({"peft_type": None}, "peft_type"),
        ({"bias": "all"}, "bias=all is not supported"),
        ({"bias": "lora_only"}, "bias=lora_only"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["x"]}, "target_parameters"),
        ({"target_parameters": "mlp.experts.down_proj"}, "target_parameters must be a list of names"),
        ({"target_parameters": [3]}, "target_parameters must be a list of names"),
        ({"use_qalora": True}, "use_qalora"),
        ({"new_trick": 3}, "new_trick=3 is not supported"),
        ({"use_rslorra": True}, "did you mean 'use_rslora'"),
        ({"use_dora": True}, "do not agree"),
        ({"r": 3}, "rank 2, but adapter_config.json says 3"),
        ({"r": 0}, "r must be a number"),
        ({"r": "2"}, "r must be a number"),
        ({"r": 2.5}, "r must be a number"),
        ({"lora_alpha": None}, "lora_alpha must be a number"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be a number"),
        ({"alpha_pattern": []}, "alpha_pattern must be an object"),
        ({"alpha_pattern": {"q_proj": "x"}}, "must hold numbers"),
        ({"alpha_pattern": {"(a+)+$": 1}}, "too involved"),
        ({"alpha_pattern": {"[": 1}}, "the pattern"),
    ],
)
def test_configurations_that_are_refused(config: dict[str, Any], says: str, base: Base, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=says):
        open_adapter(write_peft(tmp_path, q_lora(), config), base, 64)


def renamed(old: str, new: str) -> dict[str, np.ndarray[Any, Any]]:
    return {name.replace(old, new): array for name, array in q_lora().items()}


def changed(part: str, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> dict[str, Any]:
    return {name: change(array) if part in name else array for name, array in q_lora().items()}


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({}, "no tensors of an adapter"),
        ({"x": np.zeros(2, np.float32)}, "not supported: x"),
        (renamed("layers.0", "layers.3"), "layers.3.self_attn.q_proj, which this model does not have"),
        (renamed("q_proj", "query_key_value"), "does not have"),
        ({n.replace("layers.0.self_attn.q_proj", "embed_tokens"): a for n, a in q_lora(n=341).items()}, "embeddings"),
        (renamed("lora_A", "lora_embedding_A"), "LoRA of embeddings"),
        ({f"{Q}.lora_A.weight": np.zeros((2, 96), np.float32)}, "has no lora_B"),
        ({f"{Q}.lora_B.weight": np.zeros((96, 2), np.float32)}, "has no lora_A"),
        (changed("lora_A", lambda a: a[:1]), "do not fit together"),
        (changed("lora_A", lambda a: a[0]), "do not fit together"),
        (changed("lora_A", lambda a: a[:, :95]), "another base model"),
        (changed("lora_B", lambda a: a[:95]), "another base model"),
        (changed("lora_B", lambda a: a * np.float32("nan")), "not finite"),
        (changed("lora_B", lambda a: a.astype(np.int32)), "not floating-point"),
        (q_lora(rank=65), "max_lora_rank=64: raise max_lora_rank"),
        ({**q_lora(), "base_model.model.lm_head.weight": np.zeros((341, 96), np.float32)}, "not supported"),
    ],
)
def test_tensors_that_are_refused(tensors: dict[str, Any], says: str, base: Base, tmp_path: Path) -> None:
    rank = tensors[f"{Q}.lora_A.weight"].shape[0] if f"{Q}.lora_A.weight" in tensors else 2
    with pytest.raises(CheckpointError, match=says):
        open_adapter(write_peft(tmp_path, tensors, {"r": max(rank, 2) if rank < 60 else rank}), base, 64)


def test_what_only_a_merge_can_do_says_so(base: Base) -> None:
    for name, says in (("peft_dora_r8", "DoRA.*penstock merge"), ("peft_lora_modules_to_save", "lm_head.*merge")):
        with pytest.raises(UnsupportedError, match=says):
            open_adapter(golden(name) / "adapter", base, 64)


def test_normalised_heads_are_refused(tmp_path: Path) -> None:
    tensors = {
        "base_model.model.lm_head.lora_A.weight": np.zeros((2, 8), np.float32),
        "base_model.model.lm_head.lora_B.weight": np.zeros((8, 2), np.float32),
    }
    with pytest.raises(UnsupportedError, match="normalises"):
        open_adapter(write_peft(tmp_path, tensors), base_for("baichuan2_7b", golden("baichuan2_7b") / "ckpt"), 64)


def test_places_without_an_adapter(base: Base, tmp_path: Path) -> None:
    (tmp_path / "only config").mkdir()
    (tmp_path / "only config" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 1}')
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "adapter_config.json").write_text("{")
    for place, says in (
        (tmp_path / "nowhere", "no such adapter"),
        ("a\0b", "no such adapter|not a path"),
        (tmp_path / "empty", "this is no adapter"),
        (tmp_path / "only config", "no adapter_model.safetensors"),
        (tmp_path / "broken", "adapter_config.json"),
        (base_of("peft_lora_all_r8"), "this is no adapter"),
    ):
        with pytest.raises(CheckpointError, match=says):
            open_adapter(place, base, 64)


def soft(folder: Path, table: np.ndarray[Any, Any], **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    plain = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": len(table)}
    (folder / "adapter_config.json").write_text(json.dumps({**plain, **config}))
    save_file({"prompt_embeddings": table}, folder / "adapter_model.safetensors")
    return folder


def test_prefixes_that_do_not_fit(base: Base, tmp_path: Path) -> None:
    good = np.zeros((7, 144), np.float32)
    assert isinstance(open_adapter(soft(tmp_path, good), base, 64), PrefixAdapter)
    for table, config, says in (
        (good[:, :100], {}, "100 numbers a token, but the model's 3 layers keep 144"),
        (good, {"num_virtual_tokens": 6}, "num_virtual_tokens is 6, but the file has 7"),
        (good, {"num_transformer_submodules": 2}, "encoder-decoder"),
        (good, {"peft_type": "PROMPT_TUNING"}, "144 elements, but the model's have 96"),
        (good[:0], {}, "not a matrix"),
        (good[0], {}, "not a matrix"),
        (good + np.float32("inf"), {}, "not finite"),
        (np.zeros((1 << 17, 144), np.float16), {}, "from 1 to 65536"),
    ):
        with pytest.raises(CheckpointError, match=says):
            open_adapter(soft(tmp_path, np.ascontiguousarray(table), **config), base, 64)


def test_caches_of_paddle_that_do_not_fit(base: Base, tmp_path: Path) -> None:
    file = tmp_path / "pre_caches.npy"
    good = np.zeros((3, 2, 1, 2, 5, 12), np.float16)
    np.save(file, good)
    found = open_adapter(tmp_path, base, 64)
    assert isinstance(found, PrefixAdapter)
    assert (found.rows, found.shifts) == (5, None)
    for array, says in (
        (good[0], "not an array"),
        (good.astype(np.int64), "not an array"),
        (good[:2], "does not fit the model"),
        (np.zeros((3, 2, 1, 4, 5, 12), np.float32), "does not fit the model"),
        (np.zeros((3, 2, 1, 2, 0, 12), np.float32), "not an array"),
        (np.arange(3 * 2 * 2 * 2 * 5 * 12, dtype=np.float32).reshape(3, 2, 2, 2, 5, 12), "members of a batch"),
        (good + np.float16("nan"), "not finite"),
        (np.array([{}], object), "cannot be read"),
    ):
        np.save(file, array, allow_pickle=True)
        with pytest.raises(CheckpointError, match=says):
            open_adapter(file, base, 64)


def test_chatglm_projections_that_do_not_fit(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    source = golden("chatglm2")
    base = base_for("", source / "ckpt")
    tensors = torch.load(source / "ptuning_proj" / "pytorch_model.bin", weights_only=True)
    shutil.copy(source / "ptuning_proj" / "config.json", tmp_path)
    at = "transformer.prefix_encoder"
    for change, says in (
        ({f"{at}.trans.0.bias": None}, "lacks trans.0.bias"),
        ({f"{at}.embedding.weight": None}, "no prompt_embeddings and no prefix encoder|no adapter"),
        ({f"{at}.trans.2.weight": torch.zeros(192, 95)}, "do not fit together"),
        ({f"{at}.trans.2.weight": torch.zeros(190, 96), f"{at}.trans.2.bias": torch.zeros(190)}, "190 numbers a token"),
        ({f"{at}.embedding.weight": torch.zeros(4, 192)}, "pre_seq_len is 5, but the file has 4"),
    ):
        kept = {name: tensor for name, tensor in {**tensors, **change}.items() if tensor is not None}
        torch.save(kept, tmp_path / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match=says):
            open_adapter(tmp_path, base, 64)


@pytest.fixture
def damaged(tmp_path: Path) -> Iterator[Callable[[str, bytes], Path]]:
    def make(name: str, data: bytes) -> Path:
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(golden("peft_lora_subset_qv") / "adapter", folder)
        (folder / name).write_bytes(data)
        return folder

    yield make


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_any_damage_is_an_error_of_ours_or_none(name: str, base: Base, damaged: Callable[[str, bytes], Path]) -> None:
    data = (golden("peft_lora_subset_qv") / "adapter" / name).read_bytes()
    rng = random.Random(7)
    failed = 0
    for i in range(150):
        if i % 2:
            bad = data[: rng.randrange(len(data))]
        else:
            at = rng.randrange(min(len(data), 1500))
            bad = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        try:
            open_adapter(damaged(name, bad), base, 64)
        except PenstockError:
            failed += 1
    assert failed >= 75


def test_expressions_are_those_of_peft() -> None:
    name = "model.layers.1.self_attn.q_proj"
    for pattern, fits in (
        ("q_proj", True), ("self_attn.q_proj", True), ("proj", False), ("k_proj", False), (name, True),
        (r"layers\.[01]\.self_attn\.q_proj", True), (r"layers\.[23]\.self_attn\.q_proj", False),
        (r".*layers\.1\..*", True), ("^model.layers.1.self_attn.q_proj$", True), ("^layers.*", False),
    ):  # fmt: skip
        assert _fits(pattern, name, Path("x")) is fits, pattern
