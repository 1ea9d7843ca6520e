"""Answers with a watermark: found by the detector, the same in any company, and made as the definition says."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from penstock import LLM, SamplingParams
from penstock.errors import ConfigError, RequestError
from penstock.watermark import green_list
from tests.llm.conftest import OPTIONS

DRAWN = SamplingParams(temperature=1.0, seed=5, max_tokens=200, ignore_eos=True)
MARKED = replace(DRAWN, watermark=True)
PROMPTS = ["hello world", "the cat", "你好", "how are you today"]


def test_marked_answers_are_found_and_others_are_not(llm: LLM) -> None:
    for marked, plain in zip(llm.generate(PROMPTS, MARKED), llm.generate(PROMPTS, DRAWN), strict=True):
        assert llm.detect_watermark(marked.outputs[0].token_ids).z > 4
        assert llm.detect_watermark(plain.outputs[0].token_ids).z < 4
    with pytest.raises(RequestError, match="two or more"):
        llm.detect_watermark([1])


@pytest.mark.parametrize("params", [MARKED, replace(MARKED, temperature=0.0, max_tokens=40, repetition_penalty=1.2)])
def test_the_same_tokens_alone_and_in_company(llm: LLM, checkpoint: Path, params: SamplingParams) -> None:
    params = replace(params, max_tokens=40, logit_bias={7: 3.0, 9: -2.0})
    alone = [llm.generate(p, params)[0].outputs[0].token_ids for p in PROMPTS]
    plain = llm.generate(PROMPTS, DRAWN)
    mixed = llm.generate([*PROMPTS, *PROMPTS], [params, DRAWN] * len(PROMPTS))
    assert [mixed[i].outputs[0].token_ids for i in (0, 2, 4, 6)] == [alone[i] for i in (0, 2, 0, 2)]
    assert [mixed[i].outputs[0].token_ids for i in (1, 3)] == [plain[i].outputs[0].token_ids for i in (1, 3)]
    for options in ({"prefill_chunk": 2}, {"threads": 2, "mode": "dynamic"}):
        with LLM(checkpoint, **{**OPTIONS, **options}) as other:
            assert [o.outputs[0].token_ids for o in other.generate(PROMPTS, params)] == alone


def test_the_torch_executor_marks_too(checkpoint: Path) -> None:
    pytest.importorskip("torch")
    with LLM(checkpoint, executor="torch", **OPTIONS) as llm:
        assert llm.detect_watermark(llm.generate("hello", MARKED)[0].outputs[0].token_ids).z > 4


def test_every_token_is_green_behind_the_one_before(checkpoint: Path) -> None:
    """A delta that nothing outweighs: from the first token on, which the prompt's last one marks; each answer of n."""
    with LLM(checkpoint, watermark_delta=100.0, watermark_gamma=0.25, **OPTIONS) as llm:
        vocab = llm.model.engine.facts.vocab_size
        output = llm.generate("hello", replace(MARKED, n=3, max_tokens=20, min_tokens=20, ignore_eos=False))[0]
        assert len({tuple(a.token_ids) for a in output.outputs}) == 3
        for answer in output.outputs:
            tokens = [output.prompt_token_ids[-1], *answer.token_ids]
            assert all(green_list(a, vocab, 0.25)[b] for a, b in pairwise(tokens))
            assert llm.detect_watermark(tokens).scored == llm.detect_watermark(tokens).green


def test_it_joins_constraints_and_bad_words(llm: LLM) -> None:
    allowed = tuple(range(20, 60))
    answer = llm.generate("hello", replace(MARKED, allowed_token_ids=allowed, max_tokens=100))[0].outputs[0]
    assert set(answer.token_ids) <= set(allowed)
    assert llm.detect_watermark(answer.token_ids).z > 2


def test_what_it_does_not_go_with_is_told(checkpoint: Path) -> None:
    with pytest.raises(RequestError, match="watermark is not available with use_beam_search"):
        SamplingParams(watermark=True, use_beam_search=True, n=2, temperature=0.0)
    with pytest.raises(RequestError, match="watermark must be true or false"):
        SamplingParams(watermark="yes")  # type: ignore[arg-type]
    for options in ({"watermark_gamma": 1.0}, {"watermark_gamma": 0}, {"watermark_delta": 0}, {"watermark_delta": "x"}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            LLM(checkpoint, **options)
