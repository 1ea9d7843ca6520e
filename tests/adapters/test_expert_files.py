"""Files of PEFT with LoRA of experts: what they mean, and what is told of those that do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from penstock.checkpoints.adapters import LoraAdapter, open_adapter
from penstock.checkpoints.lora_parameters import turns
from penstock.errors import CheckpointError, PenstockError, UnsupportedError
from penstock.toolchain.merge import merge
from penstock.types import F32
from tests.adapters.some import write_peft
from tests.adapters.test_files import base_for
from tests.adapters.test_golden import MIXTURES
from tests.helpers import golden

AT = "base_model.model.model.layers.0.mlp.experts"


def opened(name: str, folder: Path | None = None, rank: int = 64) -> LoraAdapter:
    """An adapter for the base of the fixture ``name``; by itself its own, fused one."""
    base = base_for(name, golden(name) / "ckpt")
    found = open_adapter(folder or golden(name) / "fused", base, rank)
    assert isinstance(found, LoraAdapter)
    return found


def test_modules_of_experts_become_targets() -> None:
    """Each expert of its own rank and scale; what the file does not have is not there."""
    found = opened("lora_mixtral", golden("lora_mixtral") / "experts").factors
    experts = sorted(name for name in found if name.startswith("layers.1.moe.") and name.endswith("]"))
    assert experts == sorted(
        f"layers.1.moe.{part}.weight[{e}]"
        for part, chosen in (("gate", (0, 2, 3)), ("up", (0, 2, 3)), ("down", (0, 1, 3)))
        for e in chosen
    )
    a, b, scale = found["layers.1.moe.gate.weight[0]"]
    assert (a.shape, b.shape, scale) == ((5, 32), (20, 5), 6 / 5)
    assert found["layers.0.moe.down.weight[3]"][2] == 3.0
    assert "layers.0.moe.router.weight" in found


def delta(name: str, parameter: str, turned: bool) -> tuple[F32, dict[str, F32]]:
    """What PEFT adds to a parameter of the first layer, by its own formula, and the file's tensors (turned: as those
    before 0.19.1 wrote them)."""
    tensors = load_file(golden(name) / "fused" / "adapter_model.safetensors")
    at = f"{AT}.base_layer" if parameter == "gate_up_proj" else AT
    a, b = tensors[f"{at}.lora_A.weight"], tensors[f"{at}.lora_B.weight"]
    experts = 4 if name == "lora_mixtral" else 5
    inner, outer = a.reshape(experts, -1, a.shape[1]), b.reshape(b.shape[0], -1, experts)
    if not turned:
        return np.einsum("ore,eri->eoi", outer, inner), tensors
    for each in [key.removesuffix(".lora_A.weight") for key in tensors if key.endswith("experts.lora_A.weight")]:
        for module in (each, f"{each}.base_layer"):
            if f"{module}.lora_A.weight" in tensors:
                _turn(tensors, module, experts)
    old_a = tensors[f"{at}.lora_A.weight"].reshape(experts, -1, b.shape[0])
    old_b = tensors[f"{at}.lora_B.weight"].reshape(a.shape[1], -1, experts)
    return np.einsum("ore,eri->eio", old_b, old_a), tensors


def _turn(tensors: dict[str, F32], module: str, experts: int) -> None:
    a, b = tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"]
    outer = b.reshape(b.shape[0], -1, experts).transpose(2, 1, 0).reshape(-1, b.shape[0])
    inner = a.reshape(experts, -1, a.shape[1]).transpose(2, 1, 0).reshape(a.shape[1], -1)
    tensors |= {f"{module}.lora_A.weight": outer, f"{module}.lora_B.weight": inner}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("parameter", ["gate_up_proj", "down_proj"])
@pytest.mark.parametrize("name", ["lora_mixtral", "lora_qwen3_moe"])
def test_parameters_are_what_peft_multiplies(name: str, parameter: str, turned: bool, tmp_path: Path) -> None:
    expected, tensors = delta(name, parameter, turned)
    config = json.loads((golden(name) / "fused" / "adapter_config.json").read_text())
    if turned:
        config |= {"peft_version": "0.18.1"}
    found = opened(name, write_peft(tmp_path, tensors, config)).factors
    for e, whole in enumerate(expected):
        parts = ("gate", "up") if parameter == "gate_up_proj" else ("down",)
        pairs = [found[f"layers.0.moe.{part}.weight[{e}]"] for part in parts]
        np.testing.assert_allclose(np.concatenate([b @ a for a, b, _ in pairs]), whole, rtol=0, atol=1e-6)
        assert {a.shape[0] for a, _, _ in pairs} == {4 if (name, parameter) == ("lora_mixtral", "down_proj") else 3}


def test_which_versions_take_inputs_for_outputs() -> None:
    assert all(turns(version) for version in (None, "", "x", "0.17.1", "0.18.0.dev0", "0.19.0"))
    assert not any(turns(version) for version in ("0.19.1", "0.20.0", "0.21.2.dev0@abc", "1.0"))


def expert_tensors(module: str, n: int = 20, k: int = 32, rank: int = 2) -> dict[str, F32]:
    at = f"base_model.model.{module}"
    return {
        f"{at}.lora_A.weight": np.ones((rank, k), np.float32),
        f"{at}.lora_B.weight": np.ones((n, rank), np.float32),
    }


FUSED = {"target_parameters": ["experts.down_proj"], "peft_version": "0.21.2"}
DOWN = "model.layers.0.mlp.experts"


@pytest.mark.parametrize(
    ("tensors", "config", "says"),
    [
        (expert_tensors("model.layers.0.mlp.experts.5.up_proj"), {}, "5 experts, 0 to 4"),
        (expert_tensors("model.layers.0.mlp.experts.05.up_proj"), {}, "does not have"),
        (expert_tensors("model.layers.9.mlp.experts.0.up_proj"), {}, "does not have"),
        (expert_tensors("model.layers.0.mlp.experts.0.up_proj", n=21), {}, "another base model"),
        (expert_tensors("model.layers.0.mlp.experts.0.up_proj", k=20), {}, "another base model"),
        (expert_tensors("model.layers.0.mlp.experts.0.down_proj"), {}, "another base model"),
        (expert_tensors("model.layers.0.mlp.experts.0.up_proj", rank=65), {"r": 65}, "more than max_lora_rank=64"),
        (expert_tensors(DOWN, 32, 20, 10), {"r": 10}, "does not have"),
        (expert_tensors(DOWN, 32, 20, 11), FUSED, r"experts.down_proj: .* not of rank 2 for each expert"),
        (expert_tensors(DOWN, 32, 20, 8), FUSED, "5 experts"),
        (expert_tensors(DOWN, 32, 20, 12), FUSED, "5 experts"),
        (expert_tensors(DOWN, 20, 32, 10), FUSED, "another base model"),
        (expert_tensors(DOWN, 32, 20, 10), {**FUSED, "peft_version": "0.18.0"}, "another base model"),
        (expert_tensors(DOWN, 32, 20, 325), {**FUSED, "r": 65}, "more than max_lora_rank=64"),
        (expert_tensors(DOWN, 32, 20, 10), {**FUSED, "rank_pattern": {"down_proj": 2.5}}, "says 2.5"),
        (expert_tensors(f"{DOWN}.base_layer", 32, 20, 10), {**FUSED, "r": 10}, "does not have"),
        (
            expert_tensors(DOWN, 32, 20, 10) | expert_tensors(f"{DOWN}.4.down_proj", 32, 20, 2),
            {**FUSED, "rank_pattern": {}},
            "come twice",
        ),
        (
            expert_tensors(DOWN, 41, 32, 10),
            {**FUSED, "target_parameters": ["mlp.experts.gate_up_proj"]},
            "no gate and up of equal size",
        ),
    ],
)
def test_what_does_not_fit(tensors: dict[str, F32], config: dict[str, Any], says: str, tmp_path: Path) -> None:
    adapter = write_peft(tmp_path / "a", tensors, config)
    with pytest.raises(CheckpointError, match=says):
        opened("lora_qwen3_moe", adapter)
    if "max_lora_rank" in says:
        return
    with pytest.raises(CheckpointError):
        merge(golden("lora_qwen3_moe") / "ckpt", adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_dora_of_experts_is_merged_only(tmp_path: Path) -> None:
    tensors = expert_tensors("model.layers.0.mlp.experts.0.up_proj")
    tensors["base_model.model.model.layers.0.mlp.experts.0.up_proj.lora_magnitude_vector"] = np.ones(20, np.float32)
    adapter = write_peft(tmp_path / "a", tensors, {"use_dora": True})
    with pytest.raises(UnsupportedError, match="penstock merge"):
        opened("lora_qwen3_moe", adapter)
    assert merge(golden("lora_qwen3_moe") / "ckpt", adapter, tmp_path / "out").changed == 1
    tensors = {**expert_tensors(DOWN, 32, 20, 10), f"base_model.model.{DOWN}.lora_magnitude_vector": np.ones(32, "f4")}
    with pytest.raises(UnsupportedError, match="DoRA of parameters"):
        opened("lora_qwen3_moe", write_peft(tmp_path / "b", tensors, {**FUSED, "use_dora": True}))


def test_files_that_are_damaged(tmp_path: Path) -> None:
    """Any tensor gone or of another shape: an error of ours, never a wrong adapter."""
    for name in MIXTURES:
        for kind in ("experts", "fused"):
            folder = tmp_path / name / kind
            shutil.copytree(golden(name) / kind, folder)
            tensors = load_file(folder / "adapter_model.safetensors")
            for key in [key for key in tensors if "experts" in key][:12]:
                for change in (None, tensors[key][:-1], tensors[key][:, :-1], tensors[key].T):
                    damaged = {other: array for other, array in tensors.items() if other != key}
                    damaged |= {} if change is None else {key: np.ascontiguousarray(change)}
                    save_file(damaged, folder / "adapter_model.safetensors")
                    with pytest.raises(PenstockError):
                        opened(name, folder)
