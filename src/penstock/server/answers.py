"""The requests of one HTTP call, in the engine: handed over together, read together, freed together."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from penstock.async_llm import OutputStream
from penstock.errors import ContextLengthError, PenstockError
from penstock.frontend import Prompt
from penstock.server.current import CURRENT
from penstock.server.state import Served
from penstock.server.tracing import RequestSpan
from penstock.types import RequestMetrics, RequestOutput, SamplingParams


@dataclass(frozen=True, slots=True)
class Thoughts:
    """An answer may think before it answers. ``begun``: its prompt has begun to; ``budget``: tokens at most."""

    begun: bool = False
    budget: int | None = None


@dataclass(slots=True)
class Usage:
    """Tokens of a call so far. ``reasoning``: those of ``completion`` that are thoughts, where it is counted."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int | None = None


Counter = Callable[[Sequence[int]], int]
"""How many of an answer's next tokens are thoughts."""


class Answers:
    """Several prompts under way with one model. ``close`` frees them all. ``metrics``: of the last that ended."""

    def __init__(self, served: Served, count: int) -> None:
        self.served = served
        self.usage = Usage()
        self.metrics: RequestMetrics | None = None
        self._streams: list[OutputStream | None] = [None] * count
        self._generated = [0] * count
        self._limits = [0] * count
        self._spans: list[RequestSpan] = []
        self._counters: defaultdict[tuple[int, int], Counter] | None = None

    def count_thoughts(self, make: Callable[[], Counter] | None) -> None:
        """From now on; ``make`` None where there are none."""
        self.usage.reasoning = 0
        self._counters = None if make is None else defaultdict(make)

    @classmethod
    async def submit(
        cls,
        served: Served,
        prompts: Sequence[Prompt],
        params: SamplingParams,
        options: Mapping[str, Any] | None = None,
        thoughts: Thoughts | None = None,
        within_context: bool = False,
    ) -> Answers:
        """Returns when all are accepted. Raises ``RequestError`` or ``OverloadedError``, with none left behind.

        ``thoughts``: what ``params`` ask of the answer's form holds behind them. ``within_context``: ``max_tokens``
        that the context has no room for means as many as it has.
        """
        self = cls(served, len(prompts))
        self.usage.prompt = sum(len(p.token_ids) for p in prompts)
        current = CURRENT.get()
        constraint = await served.llm.constrain(params)
        compiler = served.llm.frontend.compiler
        if compiler is not None and thoughts is not None and (constraint is not None or thoughts.budget is not None):
            constraint = compiler.after_thoughts(constraint, thoughts.begun, thoughts.budget, params.min_tokens)
        if current is not None and current.trace is not None:
            begin = current.trace.begin
            embeds = bool((options or {}).get("pooling"))
            self._spans = [begin(served.name, params, len(p.token_ids), _operation(p, embeds)) for p in prompts]

        async def one(i: int, prompt: Prompt) -> None:
            mine = {"client": current.client if current is not None else "", **(options or {})}
            if served.adapter is not None:
                mine["adapter"] = served.adapter
            if constraint is not None:
                mine["constraint"] = constraint if len(prompts) == 1 else constraint.copy()
            name = f"http-{uuid4().hex}"
            try:
                self._streams[i] = await served.llm.submit(prompt, params, name, **mine)
            except ContextLengthError as error:
                if not within_context or error.param != "max_tokens" or params.max_tokens is None:
                    raise
                self._limits[i] = room - len(prompt.token_ids)
                self._streams[i] = await served.llm.submit(prompt, replace(params, max_tokens=None), name, **mine)

        room = served.llm.model.max_model_len
        self._limits = [room - len(p.token_ids) if params.max_tokens is None else params.max_tokens for p in prompts]
        served.metrics.begun(len(prompts), None if current is None else time.monotonic() - current.began)
        try:
            if len(prompts) == 1:
                await one(0, prompts[0])
            else:
                async with asyncio.TaskGroup() as group:
                    for i, prompt in enumerate(prompts):
                        group.create_task(one(i, prompt))
        except BaseExceptionGroup as errors:
            self.close(str(errors.exceptions[0]))
            raise errors.exceptions[0] from None
        except BaseException as error:
            self.close(str(error))
            raise
        return self

    @property
    def more(self) -> bool:
        """Whether :meth:`outputs` gives another at once: what is written now can wait for it."""
        first = self._streams[0]
        return len(self._streams) == 1 and first is not None and first.more

    async def outputs(self) -> AsyncIterator[tuple[int, RequestOutput]]:
        """(prompt number, output) as they come, of all prompts."""
        if len(self._streams) == 1:
            async for output in self._one(0):
                yield 0, output
            return
        queue: asyncio.Queue[tuple[int, RequestOutput | BaseException | None]] = asyncio.Queue()

        async def pump(i: int) -> None:
            try:
                async for output in self._one(i):
                    queue.put_nowait((i, output))
                queue.put_nowait((i, None))
            except Exception as error:
                queue.put_nowait((i, error))

        tasks = [asyncio.create_task(pump(i)) for i in range(len(self._streams))]
        try:
            left = len(tasks)
            while left:
                i, found = await queue.get()
                if found is None:
                    left -= 1
                elif isinstance(found, BaseException):
                    raise found
                else:
                    yield i, found
        finally:
            for task in tasks:
                task.cancel()
            self.close()

    async def finals(self) -> list[RequestOutput]:
        """The last output of every prompt (for ``FINAL_ONLY`` requests: the only one)."""
        try:
            found = [[output async for output in self._one(i)] for i in range(len(self._streams))]
        finally:
            self.close()
        return [outputs[-1] for outputs in found]

    def close(self, reason: str = "given up before its end") -> None:
        for stream in self._streams:
            if stream is not None:
                stream.close()
        for span in self._spans:
            span.fail(reason)

    async def _one(self, i: int) -> AsyncIterator[RequestOutput]:
        stream = self._streams[i]
        assert stream is not None
        first = True
        async for output in self._watched(i, stream):
            new = sum(len(answer.token_ids) for answer in output.outputs)
            self._generated[i] += new
            self.usage.completion += new
            if self._counters is not None:
                thoughts = sum(self._counters[i, each.index](each.token_ids) for each in output.outputs)
                self.usage.reasoning = (self.usage.reasoning or 0) + thoughts
            if first:
                self.usage.cached += output.num_cached_tokens
                first = False
            if output.finished and output.metrics is not None:
                self.metrics = output.metrics
                prompt, made = len(output.prompt_token_ids), self._generated[i]
                self.served.metrics.finished(output.metrics, prompt, made, self._limits[i])
                if self._spans:
                    reasons = [answer.finish_reason or "" for answer in output.outputs]
                    self._spans[i].end(output.metrics, prompt, made, reasons)
            yield output

    async def _watched(self, i: int, stream: OutputStream) -> AsyncIterator[RequestOutput]:
        try:
            async for output in stream:
                yield output
        except PenstockError as error:
            self.served.metrics.failed += 1
            if self._spans:
                self._spans[i].fail(str(error))
            raise


def _operation(prompt: Prompt, embeds: bool) -> str:
    return "embeddings" if embeds else "chat" if prompt.chat else "text_completion"
