"""Phi-3 rotates differently past its original length: a sequence that grows past it is computed anew, as published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from penstock import LLM, SamplingParams

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ORIGINAL, PROMPT, NEW = 24, 15, 20
GREEDY = SamplingParams(temperature=0.0, max_tokens=NEW, ignore_eos=True)
SEEDED = SamplingParams(temperature=1.0, seed=3, n=3, max_tokens=NEW, ignore_eos=True, logprobs=1)


@dataclass
class Crossing:
    folder: Path
    prompt: list[int]
    tokens: list[int]
    beams: list[int]


@pytest.fixture(scope="module")
def crossing(tmp_path_factory: pytest.TempPathFactory) -> Crossing:
    torch.manual_seed(1)
    torch.set_num_threads(1)
    config = transformers.Phi3Config(
        vocab_size=131, hidden_size=48, intermediate_size=70, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=96, original_max_position_embeddings=ORIGINAL,
        eos_token_id=None, bos_token_id=None, pad_token_id=0, rope_parameters={
            "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 6,
            "long_factor": [1.5, 2.0, 3.0, 5.0, 7.0, 9.0],
        },
    )  # fmt: skip
    model = transformers.Phi3ForCausalLM(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.2) + (parameter.ndim == 1))
    folder = tmp_path_factory.mktemp("phi3")
    model.save_pretrained(folder)
    ids = torch.randint(1, 131, (1, PROMPT))

    def reference(**how: Any) -> list[int]:
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, **how)
        return list(map(int, out[0, PROMPT:]))

    return Crossing(folder, ids[0].tolist(), reference(), reference(num_beams=3))


@pytest.fixture
def llm(crossing: Crossing) -> Iterator[LLM]:
    with open_llm(crossing) as made:
        yield made


def open_llm(crossing: Crossing, **options: Any) -> LLM:
    given = {"kv_cache_memory": 1 << 22, "threads": 1, "dtype": "float32", "skip_tokenizer_init": True, **options}
    return LLM(crossing.folder, **given)


def bits(llm: LLM, prompts: list[list[int]], params: SamplingParams) -> list[Any]:
    outputs = llm.generate(prompt_token_ids=prompts, sampling_params=params)
    assert llm.model.engine.stats.blocks_used == 0
    return [(list(a.token_ids), a.logprobs) for output in outputs for a in output.outputs]


def test_tokens_are_those_of_the_published_code(crossing: Crossing, llm: LLM) -> None:
    assert bits(llm, [crossing.prompt], GREEDY)[0][0] == crossing.tokens
    assert llm.model.engine.stats.preemptions == 0


def test_beams_cross_together(crossing: Crossing, llm: LLM) -> None:
    params = SamplingParams(use_beam_search=True, best_of=3, max_tokens=NEW, ignore_eos=True)
    assert bits(llm, [crossing.prompt], params)[0][0] == crossing.beams


def test_the_same_bits_in_company_in_pieces_and_after_a_prefix_hit(crossing: Crossing, llm: LLM) -> None:
    alone = bits(llm, [crossing.prompt], SEEDED)
    others = [crossing.prompt[:n] for n in (1, 8, 14)] + [[*crossing.prompt, *crossing.tokens]]
    assert bits(llm, [*others, crossing.prompt], SEEDED)[-3:] == alone
    for options in ({"prefill_chunk": 4}, {"enable_prefix_caching": False}, {"max_num_batched_tokens": 64}):
        with open_llm(crossing, **options) as other:
            assert bits(other, [*others, crossing.prompt], SEEDED)[-3:] == alone


def test_the_same_bits_where_blocks_run_out(crossing: Crossing, llm: LLM) -> None:
    prompts = [crossing.prompt, *([n + 1, *crossing.prompt[1:]] for n in range(7))]
    params = replace(GREEDY, max_tokens=60)
    expected = bits(llm, prompts, params)
    small = 10 * 16 * 2 * 2 * 2 * 12 * 4  # ten blocks of two layers' keys and values
    with open_llm(crossing, kv_cache_memory=small) as other:
        assert bits(other, prompts, params) == expected
        assert other.model.engine.stats.preemptions > 0
