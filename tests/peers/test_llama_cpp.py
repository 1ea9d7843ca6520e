"""The same GGUF files in penstock and in llama.cpp itself.

llama.cpp rounds what meets a quantised weight (to eight bits, or to the weight's own 16): it says of no file what the
exact logits are. So each file is held to llama.cpp twice: strictly to what it computes from the same blocks once it has
made them float32 itself, and loosely, as the file is.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.checkpoints.gguf import GgufFile
from tests.checkpoints.gguf_files import write
from tests.harness import open_runner
from tests.helpers import golden
from tests.peers.agreement import F32, distance, margins
from tests.peers.client import LlamaCpp
from tests.quant.test_gguf_families import CASES, convert
from tests.quant.test_golden_gguf import FILES

# The types that a file of one type, or one of llama-quantize's mixtures, is made of.
TYPES = (
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S",
    "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS",
)  # fmt: skip
SOURCES = (
    ("gguf_qwen2", "Q8_0"), ("gguf_mixtral", "Q8_0"), ("gguf_chatglm", "Q8_0"),
    ("gguf_qwen2_moe", "Q4_K_M"), ("gguf_gpt2", "Q4_K_M"), ("gguf_bloom", "Q5_K_M"),
)  # fmt: skip
STRICT = 1e-4  # of the logits' standard deviation, as for every family
# llama.cpp looks gelu up in a table of float16.
ROUNDED = 4e-3
GELU = ("gguf_gpt2", "gguf_bloom", "gemma", "gemma2", "gemma3_text", "gpt_neox")
# Where llama.cpp itself does not do what the model does:
# it leaves Phi-3's window out;
# it takes LongRoPE's factors for the whole context that it was opened with, not for the length that is there;
# a Baichuan of another number of layers than those published gets no positions at all (see test_baichuan).
LENGTHS = {"phi3": (7, 24), "phi3_longrope": (100, 130)}


def prompts_of(folder: str) -> list[list[int]]:
    arrays = np.load(golden(folder) / "golden.npz")
    return [[int(i) for i in arrays[f"p{n}_ids"]] for n in range(3)]


def ours(path: Path, prompts: list[list[int]], executor: str = "native", **options: Any) -> list[F32]:
    with open_runner(path, executor, **options) as runner:
        return [runner.prefill(ids).copy() for ids in prompts]


def strictly(llama_cpp: LlamaCpp, plain: Path, path: Path, prompts: list[list[int]], name: str = "") -> None:
    """Logits of ``path`` here are those of ``plain`` there, and 24 greedy tokens, until two are too close to tell."""
    expected = llama_cpp.logits(plain, prompts)
    limit = (ROUNDED if name in GELU else STRICT) * max(1.0, float(expected[-1].std()))
    apart = distance(ours(path, prompts), expected)
    assert apart.largest < limit, f"{apart}, allowed {limit:.1e}"
    for ids, tokens in zip(prompts, llama_cpp.greedy(plain, prompts, 24), strict=True):
        with open_runner(path, "native") as runner:
            found = runner.greedy(ids, 24)
            lead = margins(runner.prefill([*ids, *found])[len(ids) - 1 : -1])
        at = next((i for i, (a, b) in enumerate(zip(found, tokens, strict=True)) if a != b), None)
        assert at is None or lead[at] < 2 * limit, f"token {at} of {tokens}, here {found}, leading by {lead[at or 0]}"


@pytest.mark.parametrize(("folder", "name"), [case for case in FILES if case[0] != "gguf_baichuan"])
def test_files(llama_cpp: LlamaCpp, tmp_path: Path, folder: str, name: str) -> None:
    path = golden(folder) / f"{name}.gguf"
    plain = llama_cpp.quantize(path, tmp_path / "plain.gguf", "F32")
    strictly(llama_cpp, plain, path, prompts_of(folder), folder)


@pytest.mark.parametrize(("folder", "name"), [case for case in FILES if case[0] != "gguf_baichuan"])
def test_rounding_inputs_costs_no_more_than_there(llama_cpp: LlamaCpp, folder: str, name: str) -> None:
    path, prompts = golden(folder) / f"{name}.gguf", prompts_of(folder)
    exact = ours(path, prompts)
    theirs = distance(llama_cpp.logits(path, prompts), exact)
    found = distance(ours(path, prompts, compute="auto", activation="int8"), exact)
    assert theirs.largest < 0.3
    assert found.mean < 1.5 * theirs.mean + STRICT


@pytest.mark.parametrize("name", CASES)
def test_families(llama_cpp: LlamaCpp, tmp_path: Path, name: str) -> None:
    path, _ = convert(name, tmp_path)
    rng = np.random.default_rng(3)
    prompts = [rng.integers(3, 300, n).tolist() for n in LENGTHS.get(name, (7, 100))]
    strictly(llama_cpp, path, path, prompts, name)


@pytest.mark.parametrize("layers", [32, 40])
def test_baichuan(llama_cpp: LlamaCpp, tmp_path: Path, layers: int) -> None:
    """The numbers of layers that say which kind of positions it has."""
    folder = golden("gguf_baichuan")
    with closing(GgufFile(llama_cpp.quantize(folder / "Q8_0.gguf", tmp_path / "plain.gguf", "F32"))) as file:
        found = {name: np.array(file.get(name), np.float32) for name in file.names()}
        metadata = {key: value for key, value in file.metadata.items() if not key.startswith("general.")}
    count = metadata["baichuan.block_count"]
    tensors = {name: w for name, w in found.items() if not name.startswith("blk.")}
    for layer in range(layers):
        like = f"blk.{layer % count}."
        tensors |= {f"blk.{layer}." + n.removeprefix(like): w * 0.3 for n, w in found.items() if n.startswith(like)}
    facts = metadata | {"general.architecture": "baichuan", "baichuan.block_count": layers}
    path = write(tmp_path / "deep.gguf", facts, tensors)
    strictly(llama_cpp, path, path, prompts_of("gguf_baichuan"))


@pytest.mark.parametrize(("folder", "name"), SOURCES)
def test_every_type_that_llama_cpp_makes(llama_cpp: LlamaCpp, tmp_path: Path, folder: str, name: str) -> None:
    prompts = prompts_of(folder)[:2]
    for kind in TYPES:
        path = llama_cpp.quantize(golden(folder) / f"{name}.gguf", tmp_path / f"{kind}.gguf", kind)
        plain = llama_cpp.quantize(path, tmp_path / "plain.gguf", "F32")
        strictly(llama_cpp, plain, path, prompts, folder)
