"""LoRA of a mixture's experts in the executors and the engine: beside other requests, to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock import LLM, SamplingParams
from penstock.errors import ConfigError, ExecutionError
from penstock.models.program import Program
from penstock.types import F32
from tests.adapters.some import open_llm, write_peft
from tests.adapters.test_executors import FIRST, SECOND, mixed, native_executor, torch_executor, with_two
from tests.adapters.test_golden import MIXTURES
from tests.executors.native import some as native
from tests.helpers import golden
from tests.models.some import ARCHITECTURES

MIXED = [name for name, arch in ARCHITECTURES.items() if hasattr(arch.blocks[0].mlp, "experts")]
Bits = list[tuple[list[int], Any]]


# --------------------------------------------------------------------------------------------------------- executors


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512", "amx"])
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
