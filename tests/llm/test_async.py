"""The asynchronous twin: same tokens, cancellation at any moment, an end for everyone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock import LLM, AsyncLLM, RequestOutputKind, SamplingParams
from penstock.errors import ContextLengthError, ExecutionError, OverloadedError
from tests.llm.conftest import OPTIONS

GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, output_kind=RequestOutputKind.DELTA)
LONG = replace(GREEDY, max_tokens=400)

pytestmark = pytest.mark.asyncio


@contextlib.asynccontextmanager
async def opened(checkpoint: Path, **options: Any) -> AsyncIterator[AsyncLLM]:
    async with AsyncLLM(checkpoint, **{**OPTIONS, **options}) as llm:
        yield llm


async def collect(llm: AsyncLLM, prompt: str, params: SamplingParams = GREEDY) -> list[int]:
    return [t async for output in llm.generate(prompt, params) for t in output.outputs[0].token_ids]


async def settled(llm: AsyncLLM) -> None:
    """Wait until the engine has nothing left; fails after a while."""
    for _ in range(400):
        if await llm.call(lambda: not llm.model.engine.has_work and llm.model.engine.stats.blocks_used == 0):
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"still in use: {llm.model.engine.stats}")


async def test_concurrent_callers_get_what_each_would_alone(checkpoint: Path, llm: LLM) -> None:
    prompts = [f"{word} number {i}" for i, word in enumerate(["the cat", "hello", "你好", "world"] * 5)]
    expected = [list(llm.generate(p, GREEDY)[0].outputs[0].token_ids) for p in prompts]
    async with opened(checkpoint) as found:
        assert await asyncio.gather(*(collect(found, p) for p in prompts)) == expected
        await settled(found)


async def test_a_caller_who_leaves_frees_the_request(checkpoint: Path) -> None:
    async with opened(checkpoint) as llm:
        async for _ in llm.generate("hello", LONG):
            break
        await settled(llm)
        task = asyncio.create_task(collect(llm, "hello", replace(LONG, n=1)))
        await asyncio.sleep(0.02)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await settled(llm)


async def test_cancel_storm_leaves_nothing_and_the_engine_answers(checkpoint: Path) -> None:
    async with opened(checkpoint) as llm:
        tasks = [asyncio.create_task(collect(llm, f"hello {i}", LONG)) for i in range(60)]
        for i, task in enumerate(tasks):
            await asyncio.sleep(0.0005 * (i % 3))
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await settled(llm)
        assert len(await collect(llm, "still there?")) == 12


async def test_errors_reach_their_caller_only(checkpoint: Path) -> None:
    async with opened(checkpoint) as llm:
        with pytest.raises(ContextLengthError):
            await collect(llm, "a", replace(GREEDY, max_tokens=10_000))
        executor = llm.model.executor
        run = executor.run

        def fail(batch: object) -> object:
            executor.run = run  # type: ignore[method-assign]
            raise ExecutionError("out of luck")

        executor.run = fail  # type: ignore[method-assign,assignment]
        with pytest.raises(ExecutionError, match="out of luck"):
            await collect(llm, "a")
        assert len(await collect(llm, "a")) == 12
        await settled(llm)


async def test_an_engine_that_dies_ends_every_request(checkpoint: Path) -> None:
    async with opened(checkpoint) as llm:

        def die() -> object:
            raise SystemError("bug")

        llm.model.engine.step = die  # type: ignore[method-assign,assignment]
        with pytest.raises(OverloadedError, match="stopped"):
            await collect(llm, "a", LONG)
        assert isinstance(llm.failure, SystemError)
        with pytest.raises(OverloadedError, match="stopped"):
            await collect(llm, "a")


async def test_close_ends_requests_under_way(checkpoint: Path) -> None:
    llm = AsyncLLM(checkpoint, **OPTIONS)
    stream = llm.generate("hello", LONG)
    await anext(stream)
    await asyncio.to_thread(llm.close)
    with pytest.raises(OverloadedError):
        async for _ in stream:
            pass
    llm.close()


async def test_chat(checkpoint: Path) -> None:
    async with opened(checkpoint) as llm:
        outputs = [o async for o in llm.chat([{"role": "user", "content": "hi"}], GREEDY)]
        assert outputs[-1].finished
        assert outputs[0].prompt is not None
        assert "assistant" in outputs[0].prompt
