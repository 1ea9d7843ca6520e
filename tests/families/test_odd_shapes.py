"""Checkpoints that nobody named: random sizes, biases, windows and rotary scalings of every family of transformers.

``ODD_SHAPES=30 pytest tests/families/test_odd_shapes.py`` draws more of them than the usual few.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock import LLM, SamplingParams
from tests.families.odd import FAMILIES, Reference, make
from tests.harness import EXECUTORS, open_runner

SEEDS = range(int(os.environ.get("ODD_SHAPES", "3")))
NEW = 8
GREEDY = SamplingParams(temperature=0.0, max_tokens=NEW, ignore_eos=True)
# Root mean square of the differences, of the logits' standard deviation; some of these nets amplify what they get.
QUANTISED = {"int8": 0.35, "int4": 1.2}


@pytest.fixture(scope="module", params=[(f, s) for f in FAMILIES for s in SEEDS], ids=lambda p: f"{p[0]}-{p[1]}")
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    family, seed = request.param
    return make(family, seed, tmp_path_factory.mktemp(f"{family}-{seed}"), NEW)


def open_llm(reference: Reference, **options: Any) -> LLM:
    given = {"skip_tokenizer_init": True, "kv_cache_memory": 1 << 24, "threads": 1, "dtype": "float32", **options}
    return LLM(reference.folder, **given)


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True)))


def same_tokens(found: list[int], reference: Reference) -> None:
    """Equal up to the first place where the best two are closer than rounding can tell."""
    for step, (token, expected) in enumerate(zip(found, reference.tokens, strict=True)):
        if token != expected:
            gap = reference.steps[step][expected] - reference.steps[step][token]
            assert gap < 1e-3, f"token {step} is {token}, expected {expected} by a margin of {gap:.1e}"
            return


@pytest.mark.parametrize("executor", EXECUTORS)
def test_logits(reference: Reference, executor: str) -> None:
    limit = 2e-4 * max(1.0, float(reference.logits.std()))
    with open_runner(reference.folder, executor) as runner:
        for chunks in (None, [1], [7], [20, 3]):
            worst = np.abs(runner.prefill(reference.prompt, chunks) - reference.logits).max()
            assert worst < limit, f"chunks {chunks}: {worst:.2e}"


def test_tokens_and_logprobs(reference: Reference) -> None:
    """Alone, then in pieces beside others: greedy tokens, and the prompt's own logprobs."""
    with open_llm(reference) as llm:
        (alone,) = llm.generate(prompt_token_ids=reference.prompt, sampling_params=GREEDY)
        same_tokens(list(alone.outputs[0].token_ids), reference)
        (scored,) = llm.generate(prompt_token_ids=reference.prompt, sampling_params=replace(GREEDY, prompt_logprobs=0))
        expected = log_softmax(reference.logits)
        assert scored.prompt_logprobs is not None
        for place, token in enumerate(reference.prompt[1:], 1):
            found = scored.prompt_logprobs[place]
            assert found is not None
            assert found[token].logprob == pytest.approx(expected[place - 1, token], abs=2e-3)
    with open_llm(reference, prefill_chunk=5, block_size=32, enable_prefix_caching=False) as llm:
        others = [reference.prompt[: n + 1] for n in (0, 3)]
        together = llm.generate(prompt_token_ids=[others[0], reference.prompt, others[1]], sampling_params=GREEDY)
        assert list(together[1].outputs[0].token_ids) == list(alone.outputs[0].token_ids)


@pytest.mark.parametrize("method", QUANTISED)
def test_quantised_while_loading(reference: Reference, method: str) -> None:
    """Logprobs that are near, for weights of any width; exact and int8 inputs."""
    expected = reference.logits - reference.logits.mean(axis=-1, keepdims=True)
    for activation in ("float", "int8"):
        with open_llm(reference, quantization=method, activation=activation) as llm:
            (output,) = llm.generate(
                prompt_token_ids=[reference.prompt],
                sampling_params=replace(GREEDY, max_tokens=1, logprobs=100),
            )
            assert output.outputs[0].logprobs is not None
            found = output.outputs[0].logprobs[0]
            near = np.array([[entry.logprob, expected[-1, token]] for token, entry in found.items()])
            near -= near.mean(axis=0)
            error = float(np.sqrt(np.square(near[:, 0] - near[:, 1]).mean()) / expected.std())
            limit = (
                1.5 if "num_experts_per_tok" in reference.facts else QUANTISED[method]
            )  # other experts may be chosen
            assert error < limit, f"{activation}: {error:.3f}"


def test_as_it_comes(reference: Reference) -> None:
    """With no option at all: the arithmetic that suits the stored type."""
    with LLM(reference.folder, skip_tokenizer_init=True, kv_cache_memory=1 << 24) as llm:
        params = replace(GREEDY, max_tokens=1, logprobs=1)
        (output,) = llm.generate(prompt_token_ids=reference.prompt, sampling_params=params)
        (token,) = output.outputs[0].token_ids
        gap = reference.logits[-1].max() - reference.logits[-1, token]
        assert gap < 0.15 * reference.logits.std()
