"""Every golden adapter: logits in whole and chunked prefill on both executors, tokens through the engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock.models.positions import bidirectional_boundary, token_positions
from tests.adapters.some import base_of, generate, open_llm
from tests.harness import EXECUTORS, Runner, Seq, open_arch
from tests.helpers import golden

LORAS = (
    "peft_lora_all_r8", "peft_lora_subset_qv", "peft_lora_patterns", "peft_lora_rslora_r8", "peft_lora_gpt2_conv1d",
)  # fmt: skip
PREFIXES = ("peft_prefix_tuning", "peft_prefix_tuning_proj", "peft_prompt_tuning", "peft_p_tuning")
PTUNING = tuple((family, kind) for family in ("chatglm", "chatglm2") for kind in ("ptuning", "ptuning_proj"))
MIXTURES = ("lora_mixtral", "lora_qwen2_moe", "lora_qwen3_moe")
EXPERTS = tuple((name, kind) for name in MIXTURES for kind in ("experts", "fused"))
CASES = [(name, "") for name in (*LORAS, *PREFIXES)] + [*PTUNING, *EXPERTS]
TOLERANCE = 1e-4
ROUNDING = {"peft_lora_rslora_r8": 1.5e-4}
"""A scale of 5.7 makes float32's own roundings large: against the same model in float64 the reference's logits are off
by 3e-5 and ours by 9e-5 of the standard deviation, in different directions."""


class Adapted:
    """A fixture's base with its adapter loaded as ``a``, and its executor to run by hand."""

    def __init__(self, name: str, kind: str, executor: str) -> None:
        folder = golden(name)
        self.base: Path = folder / "ckpt" if kind else base_of(name)
        self.adapter = folder / (kind or "adapter")
        self.tolerance = ROUNDING.get(name, TOLERANCE)
        self.values = dict(np.load(folder / (f"golden_{kind}.npz" if kind else "golden.npz")))
        self.prompts = sorted({key.split("_")[0] for key in self.values if key.endswith("_ids")})
        self.arch = open_arch(self.base)
        self.llm = open_llm(self.base, executor, adapters={"a": str(self.adapter)})
        engine = self.llm.model.engine
        self.prefix = next(iter(engine.prefixes.values()), None)
        self.slot = self.llm.model.adapters.info("a").slot
        self.runner = Runner(self.llm.model.executor, self.arch.position_channels)
        pinned = self.prefix.blocks if self.prefix is not None else ()
        self.runner.free = [b for b in self.runner.free if b not in pinned]

    def ids(self, prompt: str) -> list[int]:
        return [int(t) for t in self.values[f"{prompt}_ids"]]

    def seq(self, ids: Sequence[int]) -> Seq:
        """A sequence that has the prefix before it, as the engine would lay it out."""
        boundary = bidirectional_boundary(self.arch, ids)
        positions = token_positions(self.arch, ids, 0, len(ids))
        if self.prefix is None:
            return self.runner.add(ids, positions=positions)
        rows, shift = self.prefix.rows, self.prefix.rows if self.prefix.shifts else 0
        before = np.zeros((positions.shape[0], rows), np.int32)
        seq = self.runner.add(
            [0] * rows + list(ids), np.concatenate([before, positions + shift], axis=1), boundary and rows + boundary
        )
        seq.blocks, seq.computed = list(self.prefix.blocks), rows
        return seq

    def logits(self, prompt: str, pieces: Sequence[int]) -> NDArray[np.float32]:
        seq = self.seq(self.ids(prompt))
        adapters = np.array([self.slot], np.int32) if self.slot else None
        found = [self.runner.step([(seq, n)], adapters=adapters)[0][0] for n in pieces]
        self.runner.free += [b for b in seq.blocks if self.prefix is None or b not in self.prefix.blocks]
        return np.concatenate(found)


@pytest.fixture(scope="module", params=[(*case, e) for case in CASES for e in EXECUTORS], ids="-".join)
def adapted(request: pytest.FixtureRequest) -> Iterator[Adapted]:
    made = Adapted(*request.param)
    yield made
    made.llm.close()


def test_logits_of_the_whole_prompt(adapted: Adapted) -> None:
    for prompt in adapted.prompts:
        check(adapted, prompt, adapted.logits(prompt, [len(adapted.ids(prompt))]))


def test_logits_in_pieces(adapted: Adapted) -> None:
    if adapted.arch.position_tokens is not None:
        pytest.skip("prompts of this family are never split")
    prompt = max(adapted.prompts, key=lambda p: len(adapted.ids(p)))
    check(adapted, prompt, adapted.logits(prompt, [5, 1, 16, len(adapted.ids(prompt)) - 22]))


def test_tokens_through_the_engine_in_one_batch(adapted: Adapted) -> None:
    found = generate(adapted.llm, [adapted.ids(p) for p in adapted.prompts], "a")
    assert found == [adapted.values[f"{p}_greedy"].tolist() for p in adapted.prompts]


def test_requests_without_it_are_the_base_models(adapted: Adapted) -> None:
    base: Any = adapted.values.get("p1_logits_base")
    if base is None:
        pytest.skip("the fixture has no logits of its base")
    ids = adapted.ids("p1")
    logits = adapted.runner.prefill(ids)
    np.testing.assert_allclose(logits, base, rtol=0, atol=1e-4 * max(1.0, float(base.std())))
    plain, changed = generate(adapted.llm, [ids, ids], [None, "a"], 1)
    assert plain == [int(base[-1].argmax())]
    assert changed == [int(adapted.values["p1_greedy"][0])]


def check(adapted: Adapted, prompt: str, found: NDArray[np.float32]) -> None:
    expected = adapted.values[f"{prompt}_logits"]
    worst = float(np.abs(found - expected).max()) / max(1.0, float(expected.std()))
    assert worst < adapted.tolerance, f"{prompt}: worst difference {worst:.2e} of the standard deviation"
