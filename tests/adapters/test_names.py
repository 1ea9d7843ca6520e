"""Adapters by name: mixed in one batch, loaded and unloaded while requests run, within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock import LLM, AsyncLLM, SamplingParams
from penstock.errors import CheckpointError, ConfigError, OverloadedError, RequestError
from penstock.frontend import Prompt
from tests.adapters.some import GREEDY, base_of, generate, open_llm, q_lora, write_peft
from tests.helpers import golden

LORA, OTHER, PREFIX, PROMPT = "peft_lora_all_r8", "peft_lora_subset_qv", "peft_prefix_tuning", "peft_prompt_tuning"
PROMPTS = [[5, 6, 7, 8], [9] * 20, [1, 2], [30, 31, 32, 33, 34] * 5]


def folder(name: str) -> str:
    return str(golden(name) / "adapter")


@pytest.fixture
def llm() -> Iterator[LLM]:
    made = open_llm(base_of(LORA), max_loras=2, adapters={"lora": folder(LORA), "prefix": folder(PREFIX)})
    yield made
    made.close()


def test_everything_in_one_batch_is_everything_alone(llm: LLM) -> None:
    llm.load_adapter("other", folder(OTHER))
    llm.load_adapter("prompt", folder(PROMPT))
    names = [None, "lora", "prefix", "other", "prompt", None, "lora", "prefix"]
    prompts = [PROMPTS[i % 4] for i in range(len(names))]
    together = generate(llm, prompts, names)
    alone = [generate(llm, [p], name)[0] for p, name in zip(prompts, names, strict=True)]
    assert together == alone
    with open_llm(base_of(LORA)) as plain:
        assert generate(plain, [prompts[0], prompts[5]]) == [together[0], together[5]]
    assert (
        len({tuple(generate(llm, [PROMPTS[0]], name)[0]) for name in (None, "lora", "prefix", "other", "prompt")}) == 5
    )


@pytest.mark.parametrize("options", [{"max_num_batched_tokens": 4, "max_num_seqs": 4}, {"block_size": 32}])
def test_in_small_pieces(llm: LLM, options: dict[str, Any]) -> None:
    names = ["lora", None, "prefix", "prefix"]
    expected = generate(llm, PROMPTS, names)
    with open_llm(base_of(LORA), adapters={"lora": folder(LORA), "prefix": folder(PREFIX)}, **options) as small:
        assert generate(small, PROMPTS, names) == expected


def test_several_answers_of_one_prompt(llm: LLM) -> None:
    params = SamplingParams(n=3, temperature=1.0, seed=1, max_tokens=8, ignore_eos=True)
    for name in ("lora", "prefix"):
        (many,) = llm.generate(prompt_token_ids=[PROMPTS[1]], sampling_params=params, adapter=name)
        (again,) = llm.generate(prompt_token_ids=[PROMPTS[1]], sampling_params=params, adapter=name)
        answers = [list(a.token_ids) for a in many.outputs]
        assert answers == [list(a.token_ids) for a in again.outputs]
        assert len({tuple(a) for a in answers}) > 1


def test_unknown_names_are_answered_with_the_nearest(llm: LLM) -> None:
    with pytest.raises(RequestError, match=r"no adapter 'lorra'.*did you mean 'lora'"):
        generate(llm, PROMPTS[:1], "lorra")
    with pytest.raises(RequestError, match="loaded: lora, prefix"):
        generate(llm, PROMPTS[:1], "zzzzzz")
    with pytest.raises(RequestError, match="did you mean 'prefix'"):
        llm.unload_adapter("prefixx")
    with pytest.raises(RequestError, match="must be the name"):
        llm.generate(prompt_token_ids=PROMPTS[:1], sampling_params=GREEDY, adapter=[1])  # type: ignore[list-item]
    with pytest.raises(RequestError, match="2 adapters for 1 prompts"):
        generate(llm, PROMPTS[:1], ["lora", "lora"])
    for bad in ("", "a\nb", "x" * 300, 5):
        with pytest.raises(RequestError, match="name"):
            llm.load_adapter(bad, folder(LORA))  # type: ignore[arg-type]
    assert generate(llm, PROMPTS[:1], None)


def test_bounds(llm: LLM, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="loaded already"):
        llm.load_adapter("lora", folder(OTHER))
    llm.load_adapter("other", folder(OTHER))
    with pytest.raises(OverloadedError, match=r"2 LoRA adapters are loaded \(max_loras\)"):
        llm.load_adapter("third", folder(OTHER))
    llm.unload_adapter("other")
    llm.load_adapter("third", folder(OTHER))
    with pytest.raises(CheckpointError, match="max_lora_rank=4"), open_llm(base_of(LORA), max_lora_rank=4) as small:
        small.load_adapter("lora", folder(LORA))
    with pytest.raises(ConfigError, match="enable_lora"), open_llm(base_of(LORA), enable_lora=False) as none:
        none.load_adapter("lora", folder(LORA))
    with pytest.raises(ConfigError, match="max_prefix_share"), open_llm(base_of(LORA), max_prefix_share=1e-4) as tight:
        tight.load_adapter("prefix", folder(PREFIX))
    with pytest.raises(ConfigError, match="context is 7"), open_llm(base_of(LORA), max_model_len=7) as short:
        short.load_adapter("prefix", folder(PREFIX))
    for option in ({"max_loras": 0}, {"max_lora_rank": "big"}, {"max_prefix_share": 1.0}, {"adapters": ["nameless"]}):
        with pytest.raises(ConfigError):
            open_llm(base_of(LORA), **option)
    with pytest.raises(CheckpointError), open_llm(base_of(LORA), adapters={"a": str(tmp_path / "none")}):
        pass


def test_a_prefix_takes_its_place_from_the_context(llm: LLM) -> None:
    fits = llm.model.max_model_len - 7
    long = [1] * (fits - 4)
    params = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
    (out,) = llm.generate(prompt_token_ids=[long], sampling_params=params, adapter="prefix")
    assert len(out.outputs[0].token_ids) == 4
    with pytest.raises(RequestError, match="context"):
        llm.generate(prompt_token_ids=[[*long, 1]], sampling_params=params, adapter="prefix")


def test_the_names_of_other_engines() -> None:
    for given in (
        {"lora_modules": [f"a={folder(LORA)}"]},
        {"lora_modules": [{"name": "a", "path": folder(LORA)}]},
        {"adapters": f"a={folder(LORA)},b={folder(PREFIX)}"},
    ):
        with open_llm(base_of(LORA), **given) as llm:
            assert llm.model.adapters.names()[0] == "a"
            assert "a" in llm.model.resolved["adapters"]


def test_a_slot_used_again_finds_nothing_of_its_former_adapter(llm: LLM, tmp_path: Path) -> None:
    """The prefix cache holds rows that were computed with another adapter in the same slot."""
    expected = {}
    for seed in (1, 2, 3):
        path = write_peft(tmp_path / str(seed), q_lora(3, seed=seed))
        with open_llm(base_of(LORA), adapters={"a": str(path)}) as fresh:
            expected[seed] = generate(fresh, [PROMPTS[3] * 2], "a")
    for seed in (1, 2, 3, 1):
        llm.load_adapter("a", tmp_path / str(seed))
        assert generate(llm, [PROMPTS[3] * 2], "a") == expected[seed]
        (hit,) = llm.generate(prompt_token_ids=[PROMPTS[3] * 2], sampling_params=GREEDY, adapter="a")
        assert hit.num_cached_tokens > 0
        assert list(hit.outputs[0].token_ids) == expected[seed][0]
        llm.unload_adapter("a")


def test_prefixes_loaded_and_unloaded_give_their_blocks_back(llm: LLM) -> None:
    pool = llm.model.engine.pool
    free = pool.free
    for _ in range(20):
        llm.load_adapter("p", folder(PROMPT))
        assert pool.free < free
        generate(llm, PROMPTS[:1], "p", 3)
        llm.unload_adapter("p")
        assert pool.free == free


def add(llm: LLM, request_id: str, name: str | None, n: int = 24) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True)
    llm.frontend.add(request_id, Prompt(PROMPTS[1]), params, adapter=name)


def finish(llm: LLM) -> dict[str, list[int]]:
    done = {}
    while llm.model.engine.has_work:
        for output in llm.frontend.step():
            if output.finished:
                done[output.request_id] = list(output.outputs[0].token_ids)
    return done


@pytest.mark.parametrize("executor", ["native", "torch"])
def test_unloaded_while_requests_use_it(executor: str) -> None:
    with open_llm(
        base_of(LORA), executor, max_loras=1, adapters={"lora": folder(LORA), "prefix": folder(PREFIX)}
    ) as llm:
        names = {"a": "lora", "b": None, "c": "prefix"}
        expected = {i: generate(llm, [PROMPTS[1]], name)[0] for i, name in names.items()}
        for request_id, name in names.items():
            add(llm, request_id, name)
        llm.frontend.step()
        llm.frontend.step()
        llm.unload_adapter("lora")
        llm.unload_adapter("prefix")
        with pytest.raises(RequestError, match="no adapter 'lora'"):
            add(llm, "d", "lora")
        with pytest.raises(OverloadedError):  # its slot is still in use
            llm.load_adapter("other", folder(OTHER))
        llm.load_adapter("prompt", folder(PROMPT))  # runs a step of its own between two steps
        assert finish(llm) == expected
        llm.load_adapter("other", folder(OTHER))
        assert llm.model.adapters.names() == ["prompt", "other"]
        assert generate(llm, PROMPTS, "other")


def test_a_cancelled_request_lets_its_slot_go(llm: LLM) -> None:
    add(llm, "a", "lora")
    llm.frontend.step()
    llm.unload_adapter("lora")
    llm.load_adapter("other", folder(OTHER))
    with pytest.raises(OverloadedError):
        llm.load_adapter("third", folder(OTHER))
    llm.frontend.cancel("a")
    llm.load_adapter("third", folder(OTHER))


def test_a_failed_load_leaves_nothing(llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = llm.model.engine
    free = engine.pool.free

    def fail(*args: object) -> None:
        raise RuntimeError("no")

    with monkeypatch.context() as patch:
        patch.setattr(engine.executor, "write_kv", fail)
        patch.setattr(engine.executor, "run", fail)
        patch.setattr(engine.executor, "load_adapter", fail)
        for name in (PREFIX, PROMPT, OTHER):
            with pytest.raises(RuntimeError):
                llm.load_adapter("x", folder(name))
    assert engine.pool.free == free
    assert llm.model.adapters.names() == ["lora", "prefix"]
    llm.load_adapter("x", folder(OTHER))


def test_async_twin() -> None:
    async def answer(llm: AsyncLLM, name: str | None, prompt: list[int]) -> list[int]:
        found: list[int] = []
        async for output in llm.generate({"prompt_token_ids": prompt}, GREEDY, adapter=name):
            found = list(output.outputs[0].token_ids)
        return found

    async def scenario() -> tuple[list[list[int]], list[list[int]]]:
        options: dict[str, Any] = {"skip_tokenizer_init": True, "dtype": "float32", "threads": 1, "max_model_len": 256}
        async with AsyncLLM(str(base_of(LORA)), kv_cache_memory=1 << 24, **options) as llm:
            info = await llm.load_adapter("lora", folder(LORA))
            assert (info.kind, info.rank) == ("lora", 8)
            first = asyncio.gather(*(answer(llm, name, p) for p in PROMPTS for name in (None, "lora")))
            await llm.load_adapter("prefix", folder(PREFIX))
            second = asyncio.gather(*(answer(llm, "prefix", p) for p in PROMPTS))
            with pytest.raises(RequestError, match="did you mean 'lora'"):
                await answer(llm, "loar", PROMPTS[0])
            await asyncio.sleep(0.01)
            await llm.unload_adapter("lora")
            with pytest.raises(RequestError):
                await llm.unload_adapter("lora")
            return await first, await second

    first, second = asyncio.run(scenario())
    with open_llm(base_of(LORA), adapters={"lora": folder(LORA), "prefix": folder(PREFIX)}) as llm:
        assert first == [generate(llm, [p], name)[0] for p in PROMPTS for name in (None, "lora")]
        assert second == generate(llm, PROMPTS, "prefix")


def test_caches_of_paddle(tmp_path: Path) -> None:
    """The same prefix in PaddleNLP's form gives the same tokens."""
    from safetensors.numpy import load_file

    table = load_file(golden(PREFIX) / "adapter" / "adapter_model.safetensors")["prompt_embeddings"]
    rows, dim = table.shape[0], 12
    caches = table.reshape(rows, 3, 2, -1, dim).transpose(1, 2, 3, 0, 4)[:, :, None]
    np.save(tmp_path / "pre_caches.npy", np.repeat(caches, 2, axis=2))
    with open_llm(base_of(PREFIX), adapters={"peft": folder(PREFIX), "paddle": str(tmp_path)}) as llm:
        llm.load_adapter("file", tmp_path / "pre_caches.npy")
        expected = generate(llm, PROMPTS, "peft")
        assert generate(llm, PROMPTS, "paddle") == expected
        assert generate(llm, PROMPTS, "file") == expected
