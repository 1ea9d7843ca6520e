"""A real trained model: its golden tokens, and the text's likelihood."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.harness import EXECUTORS, open_runner
from tests.helpers import shared


@pytest.mark.parametrize("executor", EXECUTORS)
def test_stories_are_told_as_they_should(executor: str) -> None:
    folder = shared("assets", "stories260K-llama")
    expected = json.loads((folder / "GOLDEN.json").read_text())
    with open_runner(folder / "hf", executor) as runner:
        logits = runner.prefill(expected["prompt_ids"])[-1]
        best = np.argsort(-logits)[:5]
        assert best.tolist() == expected["first_step_top5_ids"]
        np.testing.assert_allclose(logits[best], expected["first_step_top5_logits"], atol=2e-4)
        for chunks in (None, [2]):
            found = runner.greedy(expected["prompt_ids"], len(expected["greedy_ids"]), chunks)
            assert found == expected["greedy_ids"]
