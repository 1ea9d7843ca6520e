"""The offline API over the native executor: shapes of answers, order, stops, logprobs, mistakes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import LLM, RequestOutputKind, SamplingParams
from penstock.errors import CheckpointError, ConfigError, ContextLengthError, RequestError
from tests import tiny
from tests.llm.conftest import OPTIONS

GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
PROMPTS = ["hello world", "the cat", "你好", "浙江的省会在哪里?", "how are you today"]


def tokens(llm: LLM, prompt: Any, params: SamplingParams = GREEDY) -> list[int]:
    return list(llm.generate(prompt, params)[0].outputs[0].token_ids)


def test_results_come_in_input_order_with_vllms_names(llm: LLM) -> None:
    outputs = llm.generate(PROMPTS, [replace(GREEDY, max_tokens=n) for n in (9, 1, 5, 3, 7)])
    assert [o.prompt for o in outputs] == PROMPTS
    assert [len(o.outputs[0].token_ids) for o in outputs] == [9, 1, 5, 3, 7]
    for output in outputs:
        assert output.finished
        assert output.outputs[0].finish_reason == "length"
        assert output.prompt_token_ids == llm.get_tokenizer().encode(output.prompt)
        assert output.metrics is not None
        assert output.metrics.ttft is not None


def test_text_ids_and_dicts_are_the_same_prompt(llm: LLM) -> None:
    ids = llm.get_tokenizer().encode("hello world")
    expected = tokens(llm, "hello world")
    assert tokens(llm, ids) == expected
    assert tokens(llm, [ids]) == expected
    assert tokens(llm, {"prompt_token_ids": ids}) == expected
    assert tokens(llm, {"prompt": "hello world"}) == expected
    assert tokens(llm, np.asarray(ids)) == expected
    found = llm.generate(prompt_token_ids=[ids], sampling_params=GREEDY)
    assert list(found[0].outputs[0].token_ids) == expected


def test_text_is_what_the_tokenizer_decodes(llm: LLM) -> None:
    for output in llm.generate(PROMPTS, replace(GREEDY, max_tokens=40)):
        answer = output.outputs[0]
        assert answer.text == llm.get_tokenizer().decode(answer.token_ids)


def test_a_stream_gives_the_same_text_in_pieces(llm: LLM) -> None:
    for prompt in PROMPTS:
        whole = llm.generate(prompt, replace(GREEDY, max_tokens=40))[0].outputs[0]
        pieces = list(llm.stream(prompt, replace(GREEDY, max_tokens=40)))
        assert "".join(p.outputs[0].text for p in pieces) == whole.text
        assert [t for p in pieces for t in p.outputs[0].token_ids] == list(whole.token_ids)
        assert [p.finished for p in pieces] == [False] * (len(pieces) - 1) + [True]


def test_leaving_a_stream_frees_everything(llm: LLM) -> None:
    stream = llm.stream("hello", replace(GREEDY, max_tokens=100))
    next(stream)
    stream.close()
    assert llm.model.engine.stats.blocks_used == 0
    assert not llm.model.engine.has_work


def test_cumulative_outputs_grow(llm: LLM) -> None:
    frontend = llm.frontend
    frontend.add("x", frontend.encode("hello"), replace(GREEDY, output_kind=RequestOutputKind.CUMULATIVE))
    texts = []
    while frontend.num_live:
        texts += [o.outputs[0].text for o in frontend.step()]
    assert all(b.startswith(a) for a, b in pairwise(texts))


def test_stop_strings_cut_the_text_and_end_the_request(llm: LLM) -> None:
    text = llm.generate("hello", replace(GREEDY, max_tokens=60))[0].outputs[0].text
    stop = text[6:9]
    cut = llm.generate("hello", replace(GREEDY, max_tokens=60, stop=(stop,)))[0].outputs[0]
    assert cut.text == text[: text.index(stop)]
    assert (cut.finish_reason, cut.stop_reason) == ("stop", stop)
    kept = llm.generate("hello", replace(GREEDY, max_tokens=60, stop=(stop,), include_stop_str_in_output=True))
    assert kept[0].outputs[0].text == text[: text.index(stop)] + stop
    streamed = "".join(o.outputs[0].text for o in llm.stream("hello", replace(GREEDY, max_tokens=60, stop=(stop,))))
    assert streamed == cut.text
    assert llm.model.engine.stats.blocks_used == 0


def test_eos_ends_an_answer_and_is_not_shown(llm: LLM, checkpoint: Path) -> None:
    first = tokens(llm, "hello")
    params = replace(GREEDY, ignore_eos=True, stop_token_ids=(first[3],))
    answer = llm.generate("hello", params)[0].outputs[0]
    at = first.index(first[3])
    assert list(answer.token_ids) == first[: at + 1]
    assert answer.stop_reason == first[3]
    assert answer.text == llm.get_tokenizer().decode(first[:at])


def test_answers_of_one_prompt_differ_and_repeat_with_the_seed(llm: LLM) -> None:
    params = SamplingParams(n=4, temperature=1.5, seed=11, max_tokens=8, ignore_eos=True)
    first = llm.generate("hello", params)[0]
    assert [o.index for o in first.outputs] == [0, 1, 2, 3]
    assert len({tuple(o.token_ids) for o in first.outputs}) > 1
    again = llm.generate("hello", params)[0]
    assert [o.token_ids for o in again.outputs] == [o.token_ids for o in first.outputs]
    alone = llm.generate("hello", replace(params, n=1))[0]
    assert alone.outputs[0].token_ids == first.outputs[0].token_ids


def test_best_of_returns_the_likeliest(llm: LLM) -> None:
    params = SamplingParams(n=1, best_of=5, temperature=1.0, seed=3, max_tokens=6, logprobs=0, ignore_eos=True)
    best = llm.generate("hello", params)[0].outputs
    every = llm.generate("hello", replace(params, n=5, best_of=None))[0].outputs
    assert len(best) == 1
    assert best[0].cumulative_logprob == max(o.cumulative_logprob or 0.0 for o in every)


def test_logprobs_are_of_the_raw_distribution(llm: LLM) -> None:
    params = replace(GREEDY, logprobs=3, prompt_logprobs=2, max_tokens=4)
    output = llm.generate("hello world", params)[0]
    answer = output.outputs[0]
    assert answer.logprobs is not None
    for token, found in zip(answer.token_ids, answer.logprobs, strict=True):
        assert found[token].rank == 1
        ordered = [v.logprob for v in found.values()]
        assert ordered == sorted(ordered, reverse=True)
        assert len(found) == 3
    assert answer.cumulative_logprob == pytest.approx(
        sum(found[t].logprob for t, found in zip(answer.token_ids, answer.logprobs, strict=True))
    )
    assert output.prompt_logprobs is not None
    assert output.prompt_logprobs[0] is None
    assert len(output.prompt_logprobs) == len(output.prompt_token_ids)
    assert list(answer.token_ids) == tokens(llm, "hello world", replace(GREEDY, max_tokens=4))


def test_prompt_logprobs_equal_those_of_generation(llm: LLM) -> None:
    answer = llm.generate("hello", replace(GREEDY, logprobs=0))[0]
    ids = [*answer.prompt_token_ids, *answer.outputs[0].token_ids]
    scored = llm.generate(ids, replace(GREEDY, max_tokens=1, prompt_logprobs=0))[0].prompt_logprobs
    assert scored is not None
    tail = [entry[t].logprob for entry, t in zip(scored, ids, strict=True) if entry][-12:]
    assert answer.outputs[0].logprobs is not None
    assert tail == [e[t].logprob for e, t in zip(answer.outputs[0].logprobs, answer.outputs[0].token_ids, strict=True)]


def test_chat_renders_the_template_once_with_control_tokens(llm: LLM) -> None:
    output = llm.chat([{"role": "user", "content": "hi <|im_end|>"}], GREEDY)[0]
    tokenizer = llm.get_tokenizer()
    end = tokenizer.token_to_id("<|im_end|>")
    assert output.prompt_token_ids.count(end) == 1  # the template's, not the user's
    assert output.prompt is not None
    assert output.prompt.endswith("<|im_start|>assistant\n")
    both = llm.chat([[{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]], GREEDY)
    assert len(both) == 2


def test_a_prefix_hit_is_seen_in_the_output(llm: LLM) -> None:
    ids = [5 + i % 200 for i in range(70)]
    tokens(llm, ids)
    output = llm.generate(ids, GREEDY)[0]
    assert output.num_cached_tokens == 64


def test_hostile_numbers_are_refused_by_name() -> None:
    for values in (
        {"n": 10**9}, {"n": 0}, {"n": 1.5}, {"temperature": float("nan")}, {"temperature": -1}, {"top_p": 0},
        {"top_p": float("inf")}, {"top_k": -2}, {"min_p": 2}, {"typical_p": 0},
        {"max_tokens": 0}, {"max_tokens": 2**70},
        {"logprobs": 10**6}, {"repetition_penalty": 0}, {"stop": [""]}, {"stop": [1]}, {"seed": 2**64},
        {"logit_bias": {1: float("nan")}}, {"stop_token_ids": [-1]}, {"min_tokens": 5, "max_tokens": 2},
        {"presence_penalty": True}, {"ignore_eos": "x"},
    ):  # fmt: skip
        with pytest.raises(RequestError) as error:
            SamplingParams(**values)
        assert next(iter(values)) in str(error.value)


def test_prompts_that_cannot_be_served_are_refused_before_anything_runs(llm: LLM) -> None:
    steps = llm.model.engine.stats.steps
    bad: list[tuple[Any, str]] = [
        ("", "empty"), ([[]], "empty"), ([999], "vocabulary"), ([1.5], "integers"), (7, "prompts"),
    ]  # fmt: skip
    for prompt, message in bad:
        with pytest.raises(RequestError, match=message):
            llm.generate(prompt, GREEDY)
    with pytest.raises(ContextLengthError, match="512"):
        llm.generate([1] * 600, GREEDY)
    with pytest.raises(RequestError, match="surrogate"):
        llm.generate("a\ud800", GREEDY)
    with pytest.raises(RequestError, match="3 sampling_params for 1"):
        llm.generate("a", [GREEDY] * 3)
    assert llm.model.engine.stats.steps == steps
    assert llm.model.engine.stats.blocks_used == 0


def test_a_checkpoint_without_tokenizer_serves_ids(tmp_path: Path) -> None:
    folder = tiny.make(tmp_path / "bare", tokenizer=False)
    with pytest.raises(CheckpointError, match="skip_tokenizer_init"):
        LLM(folder, **OPTIONS)
    with LLM(folder, skip_tokenizer_init=True, **OPTIONS) as llm:
        output = llm.generate([[3, 4, 5]], GREEDY)[0]
        assert len(output.outputs[0].token_ids) == 12
        assert output.outputs[0].text == ""
        with pytest.raises(RequestError, match="prompt_token_ids"):
            llm.generate("text", GREEDY)
        with pytest.raises(RequestError, match="stop_token_ids"):
            llm.generate([[3]], replace(GREEDY, stop=("x",)))


def test_options_are_answered(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'max_model_len'"):
        LLM(checkpoint, max_model_length=5)
    with pytest.raises(ConfigError, match="one device"):
        LLM(checkpoint, tensor_parallel_size=2)
    with pytest.raises(ConfigError, match="dtype"):
        LLM(checkpoint, dtype="int3")
    with pytest.raises(ConfigError, match="kv_cache_memory"):
        LLM(checkpoint, kv_cache_memory=1000, max_model_len=512)


def test_the_context_shrinks_to_the_memory_unless_it_was_asked_for(checkpoint: Path) -> None:
    with LLM(checkpoint, **{**OPTIONS, "kv_cache_memory": 50_000}) as llm:
        assert llm.model.max_model_len < 512
        assert len(tokens(llm, "hello")) == 12


@settings(max_examples=15)
@given(
    seed=st.integers(0, 1000), block=st.sampled_from([16, 64]), dtype=st.sampled_from(["float32", "bfloat16", "int8"])
)
def test_same_bits_alone_in_company_in_chunks_after_hits_and_preemption(
    checkpoint: Path, seed: int, block: int, dtype: str
) -> None:
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(3, 320, rng.integers(1, 90)).tolist() for _ in range(33)]
    params = [
        SamplingParams(
            temperature=float(rng.choice([0.0, 1.0])), seed=int(rng.integers(1 << 30)), logprobs=1,
            max_tokens=int(rng.integers(1, 12)), ignore_eos=True, top_p=float(rng.choice([1.0, 0.9])),
        )
        for _ in prompts
    ]  # fmt: skip
    kv = {"kv_cache_dtype": dtype, "block_size": block}

    def run(together: bool, **options: Any) -> list[object]:
        with LLM(checkpoint, **{**OPTIONS, "max_num_seqs": 33, **kv, **options}) as llm:
            outputs = (
                llm.generate(prompts, params)
                if together
                else [llm.generate([p], [s])[0] for p, s in zip(prompts, params, strict=True)]
            )
            assert llm.model.engine.stats.blocks_used == 0
            return [(list(o.outputs[0].token_ids), o.outputs[0].logprobs) for o in outputs]

    alone = run(False, threads=1)
    assert run(True, threads=2) == alone
    assert run(True, threads=1, prefill_chunk=int(rng.integers(1, 30))) == alone
    assert run(True, enable_prefix_caching=False, max_num_batched_tokens=33) == alone
    few = 7 if block == 16 else 2  # blocks for little more than one sequence: preemption
    per_block = 2 * 2 * 2 * block * {"float32": 4 * 12, "bfloat16": 2 * 12, "int8": 12 + 4}[dtype]
    assert run(True, kv_cache_memory=per_block * few, max_model_len=16 * 7 if block == 16 else 128) == alone
    assert run(True, mode="dynamic") == alone


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"foo": 1}, "unknown option 'foo'"), ({"cache_slat": "a"}, "did you mean 'cache_salt'"),
        ({"lora_request": object()}, "adapter="), ({"priority": [1, 2]}, "one for each prompt"),
        ({"priority": "high"}, "whole number"), ({"sampling_params": {"temperature": 0}}, "sampling_params must be"),
        ({"sampling_params": "greedy"}, "sampling_params must be"),
    ],
)  # fmt: skip
def test_options_of_a_call_that_cannot_be(llm: LLM, options: dict[str, Any], text: str) -> None:
    with pytest.raises(RequestError, match=text):
        llm.generate("hello", **options)


def test_other_forms_of_prompts(llm: LLM) -> None:
    ids = llm.get_tokenizer().encode("hello world")
    expected = tokens(llm, ids)
    assert tokens(llm, np.asarray([ids])) == expected
    assert list(llm.generate(None, GREEDY, [ids])[0].outputs[0].token_ids) == expected
    assert len(llm.generate(["a", "b"], GREEDY, priority=[2, 1], lora_request=None)) == 2
    with pytest.raises(RequestError, match="bytes"):
        llm.generate(b"hello", GREEDY)
    with pytest.raises(ContextLengthError, match="characters"):
        llm.generate("hello " * 100_000, GREEDY)


def test_half_precision_is_computed_in_float32(checkpoint: Path, llm: LLM) -> None:
    import torch

    with LLM(checkpoint, **{**OPTIONS, "dtype": torch.float16}) as half:
        assert tokens(half, "hello world") == tokens(llm, "hello world")
        assert "f32 arithmetic" in half.model.resolved["executor"]
        assert "workspace up to" in half.model.resolved["memory that can grow"]


def test_a_tokenizer_may_be_one_file(checkpoint: Path, llm: LLM) -> None:
    with LLM(checkpoint, tokenizer=checkpoint / "tokenizer.json", **OPTIONS) as other:
        assert other.get_tokenizer().encode("hello") == llm.get_tokenizer().encode("hello")
    with pytest.raises(CheckpointError, match="absent"):
        LLM(checkpoint, tokenizer=checkpoint / "absent.tiktoken", **OPTIONS)
