"""Hugging Face's pipeline shape: echo, generators, messages, HF's argument names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock import LLM, SamplingParams, pipeline
from penstock.errors import ConfigError, RequestError
from penstock.pipeline import TextGenerationPipeline
from penstock.sampling_defaults import default_params, from_hf


@pytest.fixture(scope="module")
def pipe(llm: LLM) -> TextGenerationPipeline:
    return pipeline("text-generation", llm)


def test_the_prompt_is_echoed_unless_told_otherwise(pipe: TextGenerationPipeline, llm: LLM) -> None:
    answer = llm.generate("hello", SamplingParams(temperature=0.0, max_tokens=8))[0].outputs[0].text
    assert pipe("hello", max_new_tokens=8) == [{"generated_text": "hello" + answer}]
    assert pipe("hello", max_new_tokens=8, return_full_text=False) == [{"generated_text": answer}]


def test_lists_and_several_answers(pipe: TextGenerationPipeline) -> None:
    found = pipe(["a", "b"], max_new_tokens=4, do_sample=True, num_return_sequences=3, batch_size=2)
    assert [len(f) for f in found] == [3, 3]


def test_a_generator_streams_results_in_order(pipe: TextGenerationPipeline) -> None:
    def prompts() -> Iterator[str]:
        for i in range(300):
            yield f"My example {i}"

    found = list(pipe(prompts(), max_length=50, batch_size=16))
    assert len(found) == 300
    for i, out in enumerate(found):
        prompt = f"My example {i}"
        room = 50 - len(pipe.llm.get_tokenizer().encode(prompt))
        if i % 50 == 0:  # max_length counts the prompt
            assert out == pipe(prompt, max_new_tokens=room)
        assert out[0]["generated_text"].startswith(prompt)


def test_messages_come_back_with_the_answer(pipe: TextGenerationPipeline) -> None:
    messages = [{"role": "user", "content": "hi"}]
    found = pipe(messages, max_new_tokens=4)[0]["generated_text"]
    assert found[:-1] == messages
    assert found[-1]["role"] == "assistant"


def test_names_and_models(llm: LLM, checkpoint: Path) -> None:
    with pytest.raises(RequestError, match="text-generation"):
        pipeline("translation", llm)
    own = pipeline(model=str(checkpoint), device=0, torch_dtype="float32")
    assert own("hello", max_new_tokens=1)
    own.llm.close()
    with pytest.raises(RequestError, match="did you mean 'max_new_tokens'"):
        pipeline(model=llm)("a", max_new_token=3)
    for wrong in ({"num_beams": "4"}, {"num_beams": 0}, {"num_beams": 2, "num_return_sequences": 3}):
        with pytest.raises(RequestError, match="num_beams"):
            pipeline(model=llm)("a", **wrong)
    with pytest.raises(RequestError, match="do_sample"):
        pipeline(model=llm)("a", num_beams=4, do_sample=True)
    with pytest.raises(RequestError, match="length_penalty"):
        pipeline(model=llm)("a", length_penalty=2.0)


def test_hf_arguments() -> None:
    base = SamplingParams()
    greedy = from_hf({"max_new_tokens": 5, "do_sample": False, "temperature": 0.7, "top_k": 1}, base)
    assert greedy.greedy
    assert greedy.max_tokens == 5
    assert from_hf({"do_sample": True, "temperature": 0.3, "top_p": 0.7, "repetition_penalty": 1.05}, base).top_p == 0.7
    assert from_hf({"max_length": 30}, base, prompt_len=10).max_tokens == 20
    assert from_hf({"do_sample": True}, SamplingParams(temperature=0.0)).temperature == 1.0
    with pytest.raises(RequestError, match="counts the prompt"):
        from_hf({"max_length": 5}, base, prompt_len=10)
    assert from_hf({"eos_token_id": [1, 2]}, base).stop_token_ids == (1, 2)


def test_a_checkpoints_own_defaults() -> None:
    found = default_params({"temperature": 0.6, "top_p": 0.9, "top_k": 40, "do_sample": True, "eos_token_id": 2})
    assert (found.temperature, found.top_p, found.top_k) == (0.6, 0.9, 40)
    assert default_params({"do_sample": False, "temperature": 0.6}).greedy
    assert default_params({"temperature": "hot"}) == SamplingParams()


def test_more_of_hugging_faces_arguments(
    pipe: TextGenerationPipeline, llm: LLM, caplog: pytest.LogCaptureFixture
) -> None:
    plain = pipe("hello", max_new_tokens=6)
    ids = llm.get_tokenizer().encode("hello")
    same = {"generate_kwargs": {"max_new_tokens": 6}, "num_workers": 2, "clean_up_tokenization_spaces": False,
            "attention_mask": None, "no_repeat_ngram_size": 0, "return_text": True}  # fmt: skip
    assert pipe("hello", **same) == plain
    found = pipe("hello", max_new_tokens=6, return_tensors=True)[0]["generated_token_ids"]
    assert found[: len(ids)] == ids
    assert (
        pipe("lo", prefix="hel", max_new_tokens=6, return_full_text=False)[0]["generated_text"]
        in plain[0]["generated_text"]
    )
    assert pipe.tokenizer is llm.get_tokenizer()
    for wrong in ({"no_repeat_ngram_size": 3}, {"penalty_alpha": 0.6, "top_k": 4}, {"truncation": True}):
        with pytest.raises(RequestError, match="not available"):
            pipe("hello", **wrong)
    pipeline(model=llm, device="cuda:0")
    assert "going on with the CPU" in caplog.text


def test_a_data_set_streams(pipe: TextGenerationPipeline) -> None:
    class Prompts:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> str:
            return f"My example {index}"

    assert [out[0]["generated_text"][:12] for out in pipe(Prompts(), max_new_tokens=2)] == [
        f"My example {i}" for i in range(3)
    ]


def test_model_kwargs_are_heard(checkpoint: Path) -> None:
    made = pipeline(model=str(checkpoint), model_kwargs={"torch_dtype": "float32", "attn_implementation": "sdpa"})
    assert made.llm.model.config.model.dtype == "float32"
    made.llm.close()
    with pytest.raises(ConfigError, match="flash_attention_9"):
        pipeline(model=str(checkpoint), model_kwargs={"attn_implementation": "flash_attention_9"})
