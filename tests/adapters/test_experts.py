"""LoRA of a mixture's experts: what files of PEFT mean, and requests with it beside others, to the bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from penstock import LLM, SamplingParams
from penstock.checkpoints.adapters import LoraAdapter, open_adapter
from penstock.checkpoints.lora_parameters import turns
from penstock.errors import CheckpointError, ConfigError, ExecutionError, PenstockError, UnsupportedError
from penstock.models.program import Program
from penstock.toolchain.merge import merge
from penstock.types import F32
from tests.adapters.some import open_llm, write_peft
from tests.adapters.test_executors import FIRST, SECOND, mixed, native_executor, torch_executor, with_two
from tests.adapters.test_files import base_for
from tests.adapters.test_golden import MIXTURES
from tests.executors.native import some as native
from tests.helpers import golden
from tests.models.some import ARCHITECTURES

MIXED = [name for name, arch in ARCHITECTURES.items() if hasattr(arch.blocks[0].mlp, "experts")]
AT = "base_model.model.model.layers.0.mlp.experts"
Bits = list[tuple[list[int], Any]]


def opened(name: str, folder: Path | None = None, rank: int = 64) -> LoraAdapter:
    """An adapter for the base of the fixture ``name``; by itself its own, fused one."""
    base = base_for(name, golden(name) / "ckpt")
    found = open_adapter(folder or golden(name) / "fused", base, rank)
    assert isinstance(found, LoraAdapter)
    return found


# ------------------------------------------------------------------------------------------------------------- files


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


# --------------------------------------------------------------------------------------------------------- executors


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512"])
@pytest.mark.parametrize("fmt", ["f32", "bf16"])
def test_every_instruction_set(name: str, isa: str, fmt: str) -> None:
    try:
        plain = native.executor(name, fmt, isa=isa)
    except ConfigError as error:
        pytest.skip(str(error))
    slots = [FIRST, 0, SECOND]
    found = mixed(with_two(native.executor(name, fmt, isa=isa, threads=2)), name, slots)
    if fmt == "f32":
        expected = mixed(with_two(torch_executor(name)), name, slots)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-4 * max(1.0, float(b.std())))
    np.testing.assert_array_equal(found[1], mixed(plain, name, [0])[0])
    for slot, logits in zip(slots, found, strict=True):
        alone = with_two(native.executor(name, fmt, isa=isa, threads=3))
        np.testing.assert_array_equal(logits, mixed(alone, name, [slot])[0])


@pytest.mark.parametrize("name", MIXED)
def test_dynamic_mode_has_the_bits_of_static(name: str) -> None:
    slots = [0, FIRST, SECOND]
    static, dynamic = with_two(native_executor(name)), with_two(native_executor(name, mode="dynamic"))
    for a, b in zip(mixed(static, name, slots), mixed(dynamic, name, slots), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("make", [native_executor, torch_executor])
def test_one_expert_of_many(make: Callable[[str], Any]) -> None:
    """It acts where it is chosen; a second adapter of another expert, with a larger rank, changes nothing for it."""
    executor = make("moe")
    plain = mixed(executor, "moe", [0])[0]
    rng = np.random.default_rng(0)
    strong = {
        e: (rng.standard_normal((r, 6)).astype(np.float32), rng.standard_normal((16, r)).astype(np.float32), 1.0)
        for e, r in ((0, 2), (1, 40))
    }
    executor.load_adapter(1, {"layers.0.moe.down.weight[0]": strong[0]})
    alone = mixed(executor, "moe", [1])[0]
    assert not np.array_equal(alone, plain)
    executor.load_adapter(2, {"layers.0.moe.down.weight[1]": strong[1]})
    together = mixed(executor, "moe", [2, 1, 0])
    slack = 0 if make is native_executor else 1e-4  # torch's products depend on the batch
    np.testing.assert_allclose(together[1], alone, rtol=0, atol=slack)
    np.testing.assert_allclose(together[2], plain, rtol=0, atol=slack)
    executor.unload_adapter(2)
    np.testing.assert_array_equal(mixed(executor, "moe", [1])[0], alone)
    a, b, _ = strong[0]
    for bad, says in (
        ({"layers.0.moe.down.weight[5]": strong[0]}, "no linear"),
        ({"layers.0.moe.down.weight": strong[0]}, "no linear"),
        ({"layers.0.moe.gate.weight[0]": strong[0]}, "do not fit"),
        ({"layers.0.moe.down.weight[0]": (a[:, 1:].copy(), b, 1.0)}, "do not fit"),
    ):
        with pytest.raises(ExecutionError, match=says):
            executor.load_adapter(1, bad)
    np.testing.assert_array_equal(mixed(executor, "moe", [1])[0], alone)


# ------------------------------------------------------------------------------------------------------------ engine


@pytest.fixture(scope="module", params=MIXTURES)
def mixture(request: pytest.FixtureRequest) -> Iterator[tuple[str, LLM, dict[str | None, Bits]]]:
    """A base with both of its adapters; what each prompt gives alone, by adapter."""
    name = str(request.param)
    with open_llm(golden(name) / "ckpt") as bare:
        alone: dict[str | None, Bits] = {None: [answer(bare, [p])[0] for p in prompts(name)]}
    with load(name) as llm:
        for adapter in ("experts", "fused"):
            alone[adapter] = [answer(llm, [p], adapter)[0] for p in prompts(name)]
        yield name, llm, alone


def load(name: str, **options: Any) -> LLM:
    adapters = {kind: str(golden(name) / kind) for kind in ("experts", "fused")}
    return open_llm(golden(name) / "ckpt", adapters=adapters, **options)


def prompts(name: str) -> list[list[int]]:
    values = np.load(golden(name) / "golden_experts.npz")
    return [values[f"p{i}_ids"].tolist() for i in range(3)]


def answer(llm: LLM, ids: list[list[int]], adapter: Any = None) -> Bits:
    params = SamplingParams(temperature=0.0, max_tokens=10, ignore_eos=True, logprobs=3)
    outputs = llm.generate(prompt_token_ids=ids, sampling_params=params, adapter=adapter)
    return [(list(output.outputs[0].token_ids), output.outputs[0].logprobs) for output in outputs]


@pytest.mark.parametrize(
    "options",
    [{}, {"threads": 2}, {"threads": 3, "prefill_chunk": 5}, {"mode": "dynamic"}, {"mode": "dynamic", "threads": 2}],
    ids=str,
)
def test_in_any_company(mixture: tuple[str, LLM, dict[str | None, Bits]], options: dict[str, Any]) -> None:
    """Two adapters and none in one batch, each prompt with each: the bits of each alone."""
    name, llm, alone = mixture
    pairs = [(i, adapter) for i in (0, 1, 2) for adapter in ("fused", None, "experts")]
    expected = [alone[adapter][i] for i, adapter in pairs]
    assert len({tuple(tokens) for tokens, _ in expected}) > len(pairs) // 2
    ids = prompts(name)
    if options:
        with load(name, **options) as other:
            found = answer(other, [ids[i] for i, _ in pairs], [adapter for _, adapter in pairs])
    else:
        found = answer(llm, [ids[i] for i, _ in pairs], [adapter for _, adapter in pairs])
    assert found == expected


def test_loaded_and_unloaded(mixture: tuple[str, LLM, dict[str | None, Bits]]) -> None:
    name, _, alone = mixture
    ids = prompts(name)
    with open_llm(golden(name) / "ckpt", max_loras=1) as llm:
        for kind in ("experts", "fused", "experts"):
            llm.load_adapter("a", golden(name) / kind)
            assert answer(llm, [ids[1], ids[1]], ["a", None]) == [alone[kind][1], alone[None][1]]
            llm.unload_adapter("a")
        assert answer(llm, ids) == alone[None]


NAMES = {
    "mixtral": ("block_sparse_moe", {"gate": "w1", "up": "w3", "down": "w2"}),
    "qwen2_moe": ("mlp", {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}),
}
"""What a layer's mixture, and the linears of its experts, are called in original checkpoints."""


def all_but_the_second(program: Program) -> dict[str, F32]:
    """Factors of the experts' linears under their original names."""
    rng = np.random.default_rng(0)
    block, parts = NAMES[program.name]
    tensors: dict[str, F32] = {}
    for weight in (weight for weight in program.weights.values() if weight.kind == "experts"):
        _, layer, _, part, _ = weight.name.split(".")
        count, n, k = weight.shape
        for e in (e for e in range(count) if e != 1):
            at = f"base_model.model.model.layers.{layer}.{block}.experts.{e}.{parts[part]}"
            tensors[f"{at}.lora_A.weight"] = (rng.standard_normal((2, k)) / k**0.5).astype(np.float32)
            tensors[f"{at}.lora_B.weight"] = (rng.standard_normal((n, 2)) / 4).astype(np.float32)
    return tensors


@pytest.mark.parametrize("file", ["gguf_mixtral/Q8_0.gguf", "gguf_mixtral/Q4_K_M.gguf", "gguf_qwen2_moe/Q4_K_M.gguf"])
def test_bases_of_gguf(file: str, tmp_path: Path) -> None:
    """On blocks that stay quantised, their inputs floats or whole numbers: native is the plain executor, and rows
    beside are as without."""
    folder, name = file.split("/")
    found: list[F32] = []
    for executor, options in (
        ("torch", {"activation": "float"}),
        ("native", {"activation": "float"}),
        ("native", {"activation": "int8", "dtype": "auto"}),
    ):
        with open_llm(golden(folder) / name, executor, kv_cache_memory=1 << 26, **options) as llm:
            runs = llm.model.executor
            before = mixed(runs, "llama", [0])[0]
            adapter = write_peft(tmp_path, all_but_the_second(runs.program))
            adapted, plain = mixed(runs, "llama", [llm.load_adapter("a", adapter).slot, 0])
            assert np.abs(adapted - before).max() > 0.01
            if executor == "native":
                np.testing.assert_array_equal(plain, before)
            found.append(adapted)
    slack = max(1.0, float(found[0].std()))
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=2e-4 * slack)
    np.testing.assert_allclose(found[2], found[0], rtol=0, atol=0.2 * slack)


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
