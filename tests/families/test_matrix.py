"""Family × format × feature: every one with every other, through the whole engine on the native executor.

Each case is a checkpoint of a family with its weights as stored, made int8 or int4 while they are read (with inputs
exact or int8 as well), or written anew as quantising tools and llama.cpp's converter (in float32) do. Its tokens and
logprobs alone are what all else is held to, to the bit; those of quantised ones are held to the numbers that they stand
for. One opened model serves all features of a case that need no options of their own; a salt of its own keeps each run
from what others left in the prefix cache. `scripts/models` prints what passed into docs/models.md.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock import LLM, SamplingParams
from penstock.types import RequestOutput
from tests.adapters.some import open_llm, write_peft
from tests.adapters.test_families import matrices
from tests.families.test_golden import FAMILIES
from tests.helpers import golden
from tests.quant.forms import (
    Form,
    awq,
    float_quantized,
    fp8_blocks,
    gptq,
    int_quantized,
    pack_quantized,
    plain_of,
)
from tests.quant.test_gguf_families import CASES as CONVERTED
from tests.quant.test_gguf_families import convert
from tests.quant.written import write_checkpoint

FORMATS: dict[str, dict[str, str]] = {
    "stored": {}, "int8": {"quantization": "int8"}, "int4": {"quantization": "int4"},
    "int8, int8 inputs": {"quantization": "int8", "activation": "int8", "dtype": "auto"},
    "int4, int8 inputs": {"quantization": "int4", "activation": "int8", "dtype": "auto"},
}  # fmt: skip
WRITTEN: dict[str, Form] = {
    "AWQ": awq(-1), "GPTQ int4": gptq(4, 32, desc_act=True), "GPTQ int8": gptq(8, 32, sym=False),
    "W4A16": pack_quantized(4, 32, sym=False), "W8A16": pack_quantized(8), "W8A8": int_quantized(),
    "fp8": float_quantized("channel"), "fp8 blocks": fp8_blocks((32, 32)),
}  # fmt: skip
OPTIONS = {"W8A8": {"activation": "int8", "dtype": "auto"}}
TURNED = ("gpt2",)
"""Families whose linears lie as [inputs, outputs] in the file: of these tools, only those of GPTQ write them."""
PARAMS = SamplingParams(temperature=0.0, max_tokens=10, ignore_eos=True, logprobs=2)
SEEDED = SamplingParams(temperature=1.0, seed=5, n=3, max_tokens=8, ignore_eos=True, logprobs=1)

Bits = list[tuple[list[int], Any]]


class Case:
    """One family in one format: the options to open it with, its prompts, and what they give alone."""

    def __init__(self, name: str, form: str, folder: Path) -> None:
        self.name, self.form, self.folder = name, form, folder
        self.source = golden(name) / "ckpt"
        if form in WRITTEN:
            self.source = folder / "written"
            write_checkpoint(golden(name) / "ckpt", self.source, WRITTEN[form])
        elif form == "GGUF":
            self.source, _ = convert(name, folder)
        arrays = np.load(golden(name) / "golden.npz")
        keys = sorted(k for k in arrays if re.fullmatch(r"p\d+_ids", k))
        self.prompts = [[int(t) for t in arrays[k]] for k in keys]
        self.greedy = [[int(t) for t in arrays[k.replace("_ids", "_greedy")]][:10] for k in keys]
        self.salts = map(str, itertools.count())
        self.llm = self.open()
        self.alone = [self.run(self.llm, [p])[0] for p in self.prompts]

    def open(self, **options: Any) -> LLM:
        return open_llm(self.source, **{**FORMATS.get(self.form, {}), **OPTIONS.get(self.form, {}), **options})

    def run(self, llm: LLM, prompts: list[list[int]], params: SamplingParams = PARAMS, **options: Any) -> Bits:
        options = {"cache_salt": next(self.salts), **options}
        found = bits(llm.generate(prompt_token_ids=prompts, sampling_params=params, **options))
        held = sum(len(p.blocks) for p in llm.model.engine.prefixes.values())
        assert llm.model.engine.stats.blocks_used == held
        return found


def bits(outputs: list[RequestOutput]) -> Bits:
    return [(list(answer.token_ids), answer.logprobs) for output in outputs for answer in output.outputs]


CASES = [
    pytest.param((name, form), id=f"{name}-{form}", marks=pytest.mark.xdist_group(f"matrix-{name}"))
    for name in FAMILIES
    for form in (*FORMATS, *WRITTEN, "GGUF")
]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    name, form = request.param
    if name in TURNED and form in WRITTEN and not form.startswith("GPTQ"):
        pytest.skip("no tool writes linears so that lie as [inputs, outputs]")
    if form == "GGUF" and name not in CONVERTED:
        pytest.skip("llama.cpp has no such architecture, or its files are tested apart")
    made = Case(name, form, tmp_path_factory.mktemp(f"{name}-{form}"))
    with made.llm:
        yield made


@pytest.fixture(autouse=True)
def told(case: Case, request: pytest.FixtureRequest) -> None:
    """For the table: what this test was about. Not by `record_property`, which --junitxml does not bear."""
    request.node.user_properties.append(("case", (case.name, case.form)))


def test_greedy_tokens(case: Case) -> None:
    """As stored: the original code's, but for one prompt at most, where its best two were closer than rounding."""
    if case.form == "stored":
        same = [found[0] == expected for found, expected in zip(case.alone, case.greedy, strict=True)]
        assert sum(same) >= len(same) - 1
    if case.form in WRITTEN:
        _as_the_same_numbers(case)
    assert all(len(found[0]) == 10 for found in case.alone)


def _as_the_same_numbers(case: Case) -> None:
    """What may follow the prompts is as likely as after a checkpoint of the same numbers in float32, inputs exact."""
    plain = case.folder / "plain"
    write_checkpoint(golden(case.name) / "ckpt", plain, plain_of(WRITTEN[case.form]))
    params = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True, logprobs=20)
    with ExitStack() as stack:
        exact = {"activation": "float", "dtype": "float32"}
        llm = stack.enter_context(case.open(**exact)) if case.form in OPTIONS else case.llm
        other = stack.enter_context(open_llm(plain))
        for prompt in case.prompts:
            (_, found), (_, expected) = (case.run(model, [prompt], params)[0] for model in (llm, other))
            common = found[0].keys() & expected[0].keys()
            assert len(common) >= 18
            assert max(abs(found[0][t].logprob - expected[0][t].logprob) for t in common) < 1e-3


def test_chunked_prefill(case: Case) -> None:
    """With other prompts in the same steps, on two threads."""
    with case.open(prefill_chunk=7, threads=2) as llm:
        assert case.run(llm, case.prompts) == case.alone


def test_batches(case: Case) -> None:
    assert case.run(case.llm, case.prompts) == case.alone


def test_prefix_cache(case: Case) -> None:
    longest = max(range(len(case.prompts)), key=lambda i: len(case.prompts[i]))
    case.run(case.llm, [case.prompts[longest]], cache_salt="same")
    prompt = [case.prompts[longest]]
    output = case.llm.generate(prompt_token_ids=prompt, sampling_params=PARAMS, cache_salt="same")
    assert bits(output) == [case.alone[longest]]
    if case.llm.model.engine.cache.enabled:
        assert output[0].num_cached_tokens > 0


def test_several_answers(case: Case) -> None:
    together = case.run(case.llm, case.prompts[:2], SEEDED)
    assert together == [answer for prompt in case.prompts[:2] for answer in case.run(case.llm, [prompt], SEEDED)]


def test_dynamic_mode(case: Case) -> None:
    with case.open(mode="dynamic") as llm:
        assert case.run(llm, case.prompts[:1]) == case.alone[:1]


def test_lora(case: Case) -> None:
    """Of the first linears, and of all experts but every third."""
    rng = np.random.default_rng(0)
    found = matrices(golden(case.name) / "ckpt")
    experts = [m for m in found if ".experts." in m]
    chosen = [m for m in found if m != "lm_head" and m not in experts][:4]
    modules = {name: found[name] for name in (*chosen, *(m for i, m in enumerate(experts) if i % 3))}
    tensors = {}
    for module, (n, k) in modules.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = rng.standard_normal((2, k)).astype(np.float32)
        tensors[f"base_model.model.{module}.lora_B.weight"] = rng.standard_normal((n, 2)).astype(np.float32)
    path = write_peft(case.folder / "lora", tensors)
    _beside_plain_requests(case, path)


def test_p_tuning(case: Case) -> None:
    kv = case.llm.model.executor.program.kv
    shape = (len(kv), 2, 1, kv[0].kv_heads, 5, kv[0].head_dim)
    path = case.folder / "pre_caches.npy"
    np.save(path, np.random.default_rng(1).standard_normal(shape).astype(np.float32))
    _beside_plain_requests(case, path)


def _beside_plain_requests(case: Case, path: Path) -> None:
    """The adapter acts, plain requests beside it and after it are as without it, and both are what they are alone."""
    prompts, llm = case.prompts[:2], case.llm
    llm.load_adapter("a", path)
    own = [case.run(llm, [p], adapter="a")[0] for p in prompts]
    assert own != case.alone[:2]
    mixed = case.run(llm, [*prompts, *prompts], adapter=["a", "a", None, None])
    assert mixed == own + case.alone[:2]
    llm.unload_adapter("a")
    assert case.run(llm, prompts[:1]) == case.alone[:1]
