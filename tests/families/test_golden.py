"""Every family against logits and tokens of the original modelling code, on every executor. To add one, list it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock.models.positions import bidirectional_boundary, token_positions
from tests.harness import EXECUTORS, Runner, open_arch, open_runner
from tests.helpers import golden

FAMILIES = (
    "llama", "llama_gqa", "llama_bias", "llama3", "llama_linear", "llama_dynamic", "mistral", "qwen2", "qwen2_swa",
    "qwen2_yarn", "qwen3", "mixtral", "qwen2_moe", "qwen3_moe", "gpt2", "bloom", "gpt_neox", "phi3", "phi3_longrope",
    "stablelm", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "chatglm",
    "chatglm2", "chatglm3", "glm4chat", "baichuan7b", "baichuan13b", "baichuan2_7b", "baichuan2_13b", "qwen",
    "qwen_plain", "qwen_ntk", "qwen_logn", "qwen_early", "internlm2", "internlm2_dynamic", "opt", "opt_350m", "gptj",
    "gpt_neo",
)  # fmt: skip
# The reference's rotary table only ever grows, and had seen this length before it made these tokens.
GROWN = {("llama_dynamic", "p1"): 153}
TOLERANCE = 1e-4  # of the logits' standard deviation; the fixtures' other re-expressions agree to 2e-5
CHUNKS = ([1], [16, 5], random.Random(1).sample(range(1, 41), 9))


class Golden:
    """One fixture: its expected values by prompt, and a runner for it."""

    def __init__(self, folder: Path, runner: Runner) -> None:
        self.folder, self.runner = folder, runner
        self.arch = open_arch(folder / "ckpt")
        self.arrays = dict(np.load(folder / "golden.npz"))
        self.prompts = sorted({name.split("_")[0] for name in self.arrays if name[0] == "p" and name[1].isdigit()})

    def ids(self, prompt: str) -> list[int]:
        return [int(t) for t in self.arrays[f"{prompt}_ids"]]

    def close(self, found: NDArray[np.float32], expected: NDArray[np.float32], what: str) -> None:
        worst = float(np.abs(found - expected).max()) / max(1.0, float(expected.std()))
        assert worst < TOLERANCE, f"{what}: worst difference {worst:.2e} of the standard deviation"

    def how(self, prompt: str) -> dict[str, Any]:
        """What a prompt needs besides its tokens (ChatGLM-6B: positions and the boundary of its mask)."""
        ids = self.ids(prompt)
        boundary = bidirectional_boundary(self.arch, ids)
        positions = token_positions(self.arch, ids, 0, len(ids))
        return {"positions": positions, "bidirectional": boundary} if boundary else {}

    def decoding(self, prompt: str) -> dict[str, Any]:
        """The same, to get the tokens of ``pN_greedy``."""
        grown = GROWN.get((self.folder.name, prompt))
        return {**self.how(prompt), **({"prompt_len": grown} if grown else {})}

    @property
    def longest(self) -> str:
        return max(self.prompts, key=lambda p: len(self.ids(p)))

    def greedy(self, prompt: str) -> tuple[list[int], list[float]]:
        """Expected tokens, and the gap to the second best at each."""
        tokens = [int(t) for t in self.arrays[f"{prompt}_greedy"]]
        return tokens, list(self.arrays.get(f"{prompt}_greedy_margin", np.full(len(tokens), np.inf)))


@pytest.fixture(scope="module", params=[(f, e) for f in FAMILIES for e in EXECUTORS], ids="-".join)
def fixture(request: pytest.FixtureRequest) -> Iterator[Golden]:
    name, executor = request.param
    with open_runner(golden(name) / "ckpt", executor) as runner:
        yield Golden(golden(name), runner)


def same_tokens(found: list[int], expected: list[int], margins: list[float]) -> None:
    """Equal up to the first place where the best two were closer than rounding can tell."""
    for step, (a, b, margin) in enumerate(zip(found, expected, margins, strict=True)):
        if a != b:
            assert margin < 2e-4, f"token {step} is {a}, expected {b} by a margin of {margin:.1e}"
            return


def test_logits_of_a_whole_prefill(fixture: Golden) -> None:
    for p in fixture.prompts:
        logits = fixture.runner.prefill(fixture.ids(p), **fixture.how(p))
        fixture.close(logits, fixture.arrays[f"{p}_logits"], f"{p}, {len(logits)} tokens")


def test_hidden_states(fixture: Golden) -> None:
    for p in fixture.prompts:
        if f"{p}_hidden" not in fixture.arrays:
            continue
        seq = fixture.runner.add(fixture.ids(p), **fixture.how(p))
        _, out = fixture.runner.step([(seq, seq.prompt)], return_hidden=True)
        fixture.runner.drop(seq)
        assert out.hidden is not None
        fixture.close(out.hidden, fixture.arrays[f"{p}_hidden"], f"{p} hidden")


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_chunked_prefill_is_a_whole_prefill(fixture: Golden, chunks: list[int]) -> None:
    p = fixture.longest
    if boundary := fixture.how(p).get("bidirectional"):
        chunks = [boundary, *chunks]  # what is seen in both directions is one piece
    fixture.close(
        fixture.runner.prefill(fixture.ids(p), chunks, **fixture.how(p)), fixture.arrays[f"{p}_logits"], str(chunks)
    )


def test_greedy_tokens(fixture: Golden) -> None:
    for p in fixture.prompts:
        expected, margins = fixture.greedy(p)
        same_tokens(fixture.runner.greedy(fixture.ids(p), len(expected), **fixture.decoding(p)), expected, margins)


def test_prompts_together_are_prompts_alone(fixture: Golden) -> None:
    """Prompts of all lengths in one step, then all decode in one batch."""
    runner = fixture.runner
    seqs = [runner.add(fixture.ids(p), **fixture.how(p)) for p in fixture.prompts]
    for p, logits in zip(fixture.prompts, runner.step([(seq, seq.prompt) for seq in seqs])[0]):
        fixture.close(logits, fixture.arrays[f"{p}_logits"], f"{p} in a batch")
    for seq in seqs:
        runner.drop(seq)
    seqs = [runner.add(fixture.ids(p), **fixture.decoding(p)) for p in fixture.prompts]
    for p, found in zip(fixture.prompts, runner.greedy_together(seqs, 24)):
        same_tokens(found, *fixture.greedy(p))


def test_a_prompt_beside_a_decode(fixture: Golden) -> None:
    """One sequence decodes while another one's prompt comes in by pieces."""
    runner, first, second = fixture.runner, fixture.prompts[0], fixture.longest
    decoding = runner.add(fixture.ids(first), **fixture.how(first))
    coming = runner.add(fixture.ids(second), **fixture.how(second))
    step = coming.bidirectional or 9
    (logits,), _ = runner.step([(decoding, decoding.prompt)], every_row=False)
    parts = []
    while coming.computed < coming.prompt:
        decoding.ids.append(int(logits[-1].argmax()))
        n = min(step, coming.prompt - coming.computed)
        (logits, part), _ = runner.step([(decoding, 1), (coming, n)])
        parts.append(part)
    fixture.close(np.concatenate(parts), fixture.arrays[f"{second}_logits"], second)
    expected, margins = fixture.greedy(first)
    found = decoding.ids[decoding.prompt :][:24]
    same_tokens(found, expected[: len(found)], margins[: len(found)])
    runner.drop(decoding)
    runner.drop(coming)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("block_size", [32, 128])
def test_block_sizes(executor: str, block_size: int) -> None:
    folder = golden("mistral")
    with open_runner(folder / "ckpt", executor, block_size=block_size) as runner:
        fixture = Golden(folder, runner)
        p = fixture.longest
        fixture.close(runner.prefill(fixture.ids(p), [13]), fixture.arrays[f"{p}_logits"], f"blocks of {block_size}")
        same_tokens(runner.greedy(fixture.ids(p), 24), *fixture.greedy(p))


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize(("kv_dtype", "tolerance"), [("f16", 1e-2), ("bf16", 8e-2), ("i8", 0.15)])
def test_caches_of_fewer_bits(executor: str, kv_dtype: str, tolerance: float) -> None:
    folder = golden("llama_gqa")
    with open_runner(folder / "ckpt", executor, kv_dtype=kv_dtype) as runner:
        fixture = Golden(folder, runner)
        p = fixture.longest
        difference = np.abs(runner.prefill(fixture.ids(p)) - fixture.arrays[f"{p}_logits"]).max()
        assert 1e-6 < difference < tolerance


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_config_in_the_form_of_transformers_5(family: str, executor: str) -> None:
    """Old and new key names give the same network; one prompt shows it."""
    path = golden(family) / "config_v5.json"
    if not path.exists():
        pytest.skip("a family that transformers 5 does not have")
    with open_runner(golden(family) / "ckpt", executor, config=json.loads(path.read_text())) as runner:
        fixture = Golden(golden(family), runner)
        p = fixture.longest
        fixture.close(runner.prefill(fixture.ids(p)), fixture.arrays[f"{p}_logits"], p)
