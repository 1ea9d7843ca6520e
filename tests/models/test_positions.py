"""Positions: counted for every family but ChatGLM-6B, whose prompts have marks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from penstock.errors import RequestError
from penstock.models.architecture import PositionTokens
from penstock.models.positions import bidirectional_boundary, token_positions
from tests.helpers import golden
from tests.models.some import ARCHITECTURES

BOS, MASK, GMASK = 20, 21, 22
CHATGLM = replace(ARCHITECTURES["two ropes"], position_tokens=PositionTokens(BOS, MASK, GMASK))


def test_most_families_count() -> None:
    llama = ARCHITECTURES["llama"]
    assert token_positions(llama, [5, 6], 3, 6).tolist() == [[3, 4, 5]]
    assert bidirectional_boundary(llama, [5, 6]) == 0
    assert token_positions(ARCHITECTURES["two ropes"], [5], 1, 3).tolist() == [[1, 2], [1, 2]]


def test_chatglm_counts_the_context_then_the_answer() -> None:
    prompt = [7, 8, 9, GMASK, BOS]
    assert token_positions(CHATGLM, prompt, 0, 7).tolist() == [[0, 1, 2, 3, 3, 3, 3], [0, 0, 0, 0, 1, 2, 3]]
    assert token_positions(CHATGLM, prompt, 5, 7).tolist() == [[3, 3], [2, 3]]
    assert token_positions(CHATGLM, prompt, 2, 5).dtype == np.int32
    assert bidirectional_boundary(CHATGLM, prompt) == 4


def test_gmask_comes_before_mask() -> None:
    assert token_positions(CHATGLM, [MASK, 8, BOS, 4], 2, 4).tolist() == [[0, 0], [1, 2]]
    assert token_positions(CHATGLM, [MASK, 8, GMASK, BOS], 3, 4).tolist() == [[2], [1]]


@pytest.mark.parametrize("prompt", [[1, 2], [GMASK, 1], [1, BOS], []])
def test_a_prompt_without_its_marks_is_refused(prompt: list[int]) -> None:
    with pytest.raises(RequestError, match=r"\[gMASK\] \(22\) or \[MASK\] \(21\), and <bos> \(20\)"):
        token_positions(CHATGLM, prompt, 0, 1)


def test_positions_are_those_of_the_original_code() -> None:
    from tests.harness import open_arch

    arch, arrays = open_arch(golden("chatglm") / "ckpt"), np.load(golden("chatglm") / "golden.npz")
    names = [name for name in arrays if name.endswith("_position_ids")]
    assert len(names) > 4
    for name in names:
        ids = arrays[name.replace("_position_ids", "_ids")]
        np.testing.assert_array_equal(token_positions(arch, ids, 0, len(ids)), arrays[name])
