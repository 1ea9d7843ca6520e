"""Beam search through the whole engine: the reference's answers and scores, and every way to ask for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock import LLM, AsyncLLM, BeamSearchParams, RequestOutputKind, SamplingParams, pipeline
from penstock.errors import RequestError
from penstock.llm import PromptInput
from penstock.sampling_defaults import from_hf
from penstock.types import RequestOutput
from tests.harness import EXECUTORS
from tests.helpers import golden
from tests.llm.conftest import OPTIONS

FAMILIES = (
    "llama", "llama_gqa", "llama_bias", "llama3", "llama_linear", "llama_dynamic", "mistral", "mixtral", "qwen2",
    "qwen2_swa", "qwen2_yarn", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text", "bloom", "gpt2",
    "gpt_neo", "gpt_neox", "gptj", "opt", "opt_350m", "phi3", "phi3_longrope", "stablelm", "glm", "glm4", "glm4chat",
    "chatglm", "chatglm2", "chatglm3", "baichuan7b", "baichuan13b", "baichuan2_7b", "baichuan2_13b", "internlm2",
    "qwen", "qwen_plain", "qwen_ntk", "qwen_logn", "qwen_early",
)  # fmt: skip
WIDTH, TOKENS = 4, 16
TOLERANCE = 1e-4


def open_golden(name: str, executor: str, **options: Any) -> LLM:
    if executor == "torch":
        import torch

        torch.set_num_threads(1)
    given = {"executor": executor, "skip_tokenizer_init": True, "kv_cache_memory": 1 << 23, "threads": 1, **options}
    return LLM(golden(name) / "ckpt", dtype="float32", max_num_seqs=16, **given)


def score(output: RequestOutput, penalty: float = 1.0) -> float:
    return float(total(output) / len(output.outputs[0].token_ids) ** penalty)


def total(output: RequestOutput) -> float:
    found = output.outputs[0].cumulative_logprob
    assert found is not None
    return found


def scored_anew(llm: LLM, output: RequestOutput) -> float:
    """The best answer's sum in one pass over prompt and answer, which is how the reference got it. It differs from the
    cached one where the rotation depends on the length of the prompt."""
    tokens = [*output.prompt_token_ids, *output.outputs[0].token_ids]
    again = llm.generate([tokens], SamplingParams(max_tokens=1, prompt_logprobs=0))[0]
    places = list(zip(tokens, again.prompt_logprobs or [], strict=True))
    return sum(found[token].logprob for token, found in places[-TOKENS:] if found is not None)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", FAMILIES)
def test_answers_and_scores_are_the_references(name: str, executor: str) -> None:
    arrays = dict(np.load(golden(name) / "golden.npz"))
    prompts = [key.split("_")[0] for key in arrays if key.endswith("_beam4")]
    assert prompts
    params = SamplingParams(use_beam_search=True, n=WIDTH, max_tokens=TOKENS, ignore_eos=True)
    with open_golden(name, executor) as llm:
        outputs = llm.generate([arrays[f"{p}_ids"].tolist() for p in prompts], params)
        assert llm.model.engine.pool.used == 0
        sums = [
            scored_anew(llm, output) if f"{p}_greedy_nocache" in arrays else total(output)
            for p, output in zip(prompts, outputs, strict=True)
        ]
    for prompt, output, found_sum in zip(prompts, outputs, sums, strict=True):
        assert list(output.outputs[0].token_ids) == arrays[f"{prompt}_beam4"].tolist()
        assert found_sum == pytest.approx(float(arrays[f"{prompt}_beam4_sumlogprob"]), abs=TOKENS * TOLERANCE)
        assert found_sum / TOKENS == pytest.approx(float(arrays[f"{prompt}_beam4_score"]), abs=TOLERANCE)
        found = [a.cumulative_logprob or 0.0 for a in output.outputs]
        assert found == sorted(found, reverse=True)
        assert len({tuple(a.token_ids) for a in output.outputs}) == WIDTH


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", ["llama_gqa", "qwen2"])
def test_beams_that_end_early(name: str, executor: str) -> None:
    arrays = dict(np.load(golden(name) / "golden.npz"))
    with open_golden(name, executor) as llm:
        for which in ("p1_beameos0", "p1_beameos1"):
            eos = int(arrays[f"{which}_eos"])
            params = SamplingParams(
                use_beam_search=True, best_of=WIDTH, max_tokens=TOKENS, ignore_eos=True, stop_token_ids=(eos,)
            )
            output = llm.generate(prompt_token_ids=arrays["p1_ids"].tolist(), sampling_params=params)[0]
            assert list(output.outputs[0].token_ids) == arrays[f"{which}_seq"].tolist()
            assert score(output) == pytest.approx(float(arrays[f"{which}_score"]), abs=1e-4)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("kind", ["ptuning", "ptuning_proj"])
@pytest.mark.parametrize("name", ["chatglm", "chatglm2"])
def test_beams_behind_a_prefix(name: str, kind: str, executor: str) -> None:
    arrays = dict(np.load(golden(name) / f"golden_{kind}.npz"))
    with open_golden(name, executor) as llm:
        llm.load_adapter("p", golden(name) / kind)
        params = SamplingParams(use_beam_search=True, n=WIDTH, max_tokens=TOKENS, ignore_eos=True)
        output = llm.generate([arrays["p1_ids"].tolist()], params, adapter="p")[0]
    assert list(output.outputs[0].token_ids) == arrays["p1_beam4"].tolist()
    assert score(output) == pytest.approx(float(arrays["p1_beam4_score"]), abs=1e-4)


def test_company_and_small_caches_change_no_bit() -> None:
    arrays = dict(np.load(golden("llama_gqa") / "golden.npz"))
    prompts = [arrays[f"p{i}_ids"].tolist() for i in (1, 2)] * 3
    beams = SamplingParams(use_beam_search=True, n=WIDTH, max_tokens=TOKENS, ignore_eos=True)
    plain = SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True)
    params = [beams, plain, plain, beams, beams, beams]

    def run(llm: LLM, together: bool) -> list[Any]:
        if together:
            outputs = llm.generate(prompts, params)
        else:
            outputs = [llm.generate([p], q)[0] for p, q in zip(prompts, params, strict=True)]
        return [[(list(a.token_ids), a.cumulative_logprob) for a in o.outputs] for o in outputs]

    with open_golden("llama_gqa", "native") as llm:
        alone = run(llm, False)
        assert run(llm, True) == alone
    engine_rows = max(map(len, prompts)) + WIDTH * (TOKENS + 32)
    small = kv_bytes(engine_rows)
    with open_golden("llama_gqa", "native", kv_cache_memory=small, enable_prefix_caching=False) as llm:
        assert run(llm, True) == alone
        assert llm.model.engine.stats.preemptions > 0


def kv_bytes(rows: int) -> int:
    """Memory for ``rows`` rows of the cache of llama_gqa's fixture."""
    import json

    config = json.loads((golden("llama_gqa") / "ckpt" / "config.json").read_text())
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return int(rows * config["num_hidden_layers"] * 2 * config["num_key_value_heads"] * head * 4)


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Iterator[Any]:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    yield transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


@pytest.mark.parametrize("early", [False, True, "never"])
@pytest.mark.parametrize("penalty", [1.0, 0.0, 2.0, -1.0])
def test_options_mean_what_they_mean_in_transformers(
    reference: Any, llm: LLM, early: bool | str, penalty: float
) -> None:
    import torch

    ids = llm.get_tokenizer().encode("hello world")
    ends = sorted({t for o in llm.generate([ids], beams(4, 12)) for a in o.outputs for t in a.token_ids[1::4]})[:3]
    wanted = reference.generate(
        torch.tensor([ids]), num_beams=5, num_return_sequences=3, max_new_tokens=12, do_sample=False,
        length_penalty=penalty, early_stopping=early, eos_token_id=ends, pad_token_id=319, output_scores=True,
        return_dict_in_generate=True, repetition_penalty=1.3,
    )  # fmt: skip
    params = SamplingParams(
        use_beam_search=True, n=3, best_of=5, max_tokens=12, length_penalty=penalty, early_stopping=early,
        ignore_eos=True, stop_token_ids=tuple(ends), repetition_penalty=1.3,
    )  # fmt: skip
    found = llm.generate([ids], params)[0].outputs
    for answer, row in zip(found, wanted.sequences[:, len(ids) :].tolist(), strict=True):
        assert list(answer.token_ids) == row[: len(answer.token_ids)]
        assert set(row[len(answer.token_ids) :]) <= {319}


def beams(width: int, max_tokens: int, **more: Any) -> SamplingParams:
    return SamplingParams(use_beam_search=True, n=width, max_tokens=max_tokens, ignore_eos=True, **more)


def test_one_beam_is_greedy_and_more_are_no_worse(llm: LLM) -> None:
    prompts = ["hello", "the cat", "你好", "one two"]
    plain = llm.generate(prompts, SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, logprobs=0))
    one = llm.generate(prompts, beams(1, 12))
    assert [o.outputs[0].token_ids for o in one] == [o.outputs[0].token_ids for o in plain]
    assert [o.outputs[0].text for o in one] == [o.outputs[0].text for o in plain]
    for greedy, best in zip(plain, llm.generate(prompts, beams(6, 12)), strict=True):
        assert score(best) >= score(greedy) - 1e-6


def test_the_shapes_of_beam_search(llm: LLM) -> None:
    prompts: list[PromptInput] = ["hello", {"prompt": "the cat"}]
    found = llm.beam_search(prompts, BeamSearchParams(beam_width=3, max_tokens=6, ignore_eos=True))
    assert [len(o.sequences) for o in found] == [3, 3]
    same = llm.generate(["hello"], beams(3, 6))[0]
    for sequence, answer in zip(found[0].sequences, same.outputs, strict=True):
        assert sequence.tokens == [*same.prompt_token_ids, *answer.token_ids]
        assert sequence.cum_logprob == answer.cumulative_logprob
        assert sequence.text == "hello" + answer.text
        assert len(sequence.logprobs) == len(answer.token_ids)
    with pytest.raises(RequestError, match="beam_width"):
        BeamSearchParams(beam_width=0, max_tokens=6)
    with pytest.raises(RequestError, match="temperature"):
        BeamSearchParams(beam_width=2, max_tokens=6, temperature=0.5)


def test_a_token_that_ends_an_answer_is_left_out_of_the_sequence(llm: LLM) -> None:
    first = llm.generate("hello", beams(2, 4))[0].outputs[0].token_ids
    for keep in (False, True):
        params = BeamSearchParams(2, 4, True, stop_token_ids=(first[1],), include_stop_str_in_output=keep)
        for sequence in llm.beam_search("hello", params)[0].sequences:
            if sequence.finish_reason == "stop":
                assert (sequence.tokens[-1] == first[1]) == keep


def test_a_stream_gives_the_answers_at_the_end(llm: LLM) -> None:
    found = list(llm.stream("hello", beams(3, 6)))
    assert len(found) == 1
    assert found[0].finished
    assert [a.text for a in found[0].outputs] == [a.text for a in llm.generate("hello", beams(3, 6))[0].outputs]


def test_stop_strings_cut_the_answers(llm: LLM) -> None:
    whole = llm.generate("hello", beams(3, 12))[0].outputs[0].text
    middle = whole[4:6]
    answer = llm.generate("hello", beams(3, 12, stop=(middle,)))[0].outputs[0]
    assert answer.text == whole[: whole.index(middle)]
    assert (answer.finish_reason, answer.stop_reason) == ("stop", middle)
    assert llm.model.engine.pool.used == 0


def test_structured_output_with_beams(llm: LLM) -> None:
    choice = ["yes", "no", "perhaps"]
    params = SamplingParams(use_beam_search=True, n=12, max_tokens=20, structured_outputs={"choice": choice})
    output = llm.generate("is it so?", params)[0]
    assert {a.text for a in output.outputs} == set(choice)
    assert len({tuple(a.token_ids) for a in output.outputs}) == len(output.outputs)  # one text may be several answers
    assert all(a.finish_reason == "stop" for a in output.outputs)


def test_too_many_end_tokens_are_refused(llm: LLM) -> None:
    with pytest.raises(RequestError, match="stop_token_ids: at most 256"):
        llm.generate("hello", beams(2, 4, stop_token_ids=tuple(range(300))))
    assert llm.model.engine.pool.used == 0


def test_the_pipeline_knows_num_beams(llm: LLM) -> None:
    found = pipeline(model=llm)("hello", num_beams=4, num_return_sequences=2, max_new_tokens=5, return_full_text=False)
    params = SamplingParams(use_beam_search=True, best_of=4, n=2, max_tokens=5)
    assert [f["generated_text"] for f in found] == [a.text for a in llm.generate("hello", params)[0].outputs]
    sampling = SamplingParams(temperature=0.6, top_p=0.8, top_k=20, repetition_penalty=1.1)
    made = from_hf({"num_beams": 3, "length_penalty": 2.0, "early_stopping": True, "temperature": 0.9}, sampling)
    assert (made.best_of, made.n, made.length_penalty, made.early_stopping) == (3, 1, 2.0, True)
    assert made.use_beam_search
    assert made.repetition_penalty == 1.1
    assert not from_hf({"num_beams": 1, "do_sample": False}, sampling).use_beam_search


async def test_beams_that_are_left_are_freed(checkpoint: Path) -> None:
    async with AsyncLLM(checkpoint, **OPTIONS) as llm:
        params = beams(4, 200, output_kind=RequestOutputKind.DELTA)
        prompt = llm.frontend.encode("hello")
        stream = await llm.submit(prompt, params)
        stream.close()
        outputs = [o async for o in llm.generate("hello", beams(4, 8))]
        assert len(outputs) == 1
        assert len(outputs[0].outputs) == 4
        assert llm.model.engine.pool.used == 0
