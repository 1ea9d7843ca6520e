"""``LLM.embed`` and ``AsyncLLM.embed``."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from penstock import LLM
from penstock.async_llm import AsyncLLM
from penstock.errors import RequestError

TEXTS = ["The water runs.", "水流", "The water runs through the penstock and turns the wheel. " * 4]


@pytest.fixture(scope="module")
def llm():
    with LLM(threads=1, kv_cache_memory=1 << 26) as model:
        yield model


def test_vectors_have_length_one_and_keep_the_order(llm):
    found = llm.embed(TEXTS)
    for output, text in zip(found, TEXTS, strict=True):
        vector = np.array(output.outputs.embedding)
        assert np.linalg.norm(vector) == pytest.approx(1, rel=1e-5)
        assert output.prompt_token_ids == llm.get_tokenizer().encode_prompt(text)
        assert llm.embed(text)[0].outputs.embedding == output.outputs.embedding
    assert llm.model.engine.pool.used == 0


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_chunks_change_no_bit(llm, pooling):
    want = [o.outputs.embedding for o in llm.embed(TEXTS, pooling=pooling)]
    with LLM(threads=1, kv_cache_memory=1 << 26, max_num_batched_tokens=8, max_num_seqs=2) as small:
        assert [o.outputs.embedding for o in small.embed(TEXTS, pooling=pooling)] == want
        assert [o.outputs.embedding for o in small.embed(TEXTS, pooling=pooling)] == want  # prefixes are cached now


def test_unknown_pooling(llm):
    with pytest.raises(RequestError, match="pooling must be one of mean, last"):
        llm.embed("a", pooling="cls")


async def test_the_asynchronous_twin(llm):
    async with AsyncLLM(threads=1, kv_cache_memory=1 << 26) as twin:
        found = await asyncio.gather(*(twin.embed(text, pooling="mean") for text in TEXTS))
        want = llm.embed(TEXTS, pooling="mean")
        assert [o.outputs.embedding for o in found] == [o.outputs.embedding for o in want]
