"""The asynchronous twin of :class:`penstock.LLM`: many callers, one engine in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from penstock.adapters import AdapterInfo
from penstock.assemble import LoadProgress, Model, assemble
from penstock.chat import render
from penstock.config import Config, from_kwargs
from penstock.delivery import Inbox, Mailbox
from penstock.errors import ExecutionError, OverloadedError
from penstock.frontend import POOLED, Frontend, Prompt, embedding, failure
from penstock.sampling_defaults import default_params
from penstock.types import Constraint, EmbeddingRequestOutput, Message, RequestOutput, SamplingParams

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.05
ENGINE_THREAD = "penstock-engine"

GRAMMAR_SECONDS = 15.0
"""What a request waits at most for its grammar: its turn, the trial, and a process for it if there is none."""


@dataclass(slots=True, eq=False)
class _Command:
    """Something to do in the engine's thread, and who waits for it."""

    function: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self.function())
        except BaseException as error:
            self.future.set_exception(error)


class OutputStream:
    """The outputs of one accepted request, as an asynchronous iterator.

    ``close`` frees the request within a step if it has not finished; idempotent, and it never waits.
    """

    def __init__(self, request_id: str, outputs: Inbox, cancel: Callable[[], object]) -> None:
        self.request_id = request_id
        self._outputs = outputs
        self._cancel = cancel
        self._finished = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RequestOutput:
        if self._finished:
            raise StopAsyncIteration
        output = await self._outputs.get()
        if isinstance(output, BaseException):
            self._finished = True
            raise output
        self._finished = output.finished
        if output.error is not None:
            self.close()
            raise failure(output)
        return output

    @property
    def more(self) -> bool:
        """Whether the next output is here already."""
        return not self._finished and self._outputs.more

    def close(self) -> None:
        if not self._finished:
            self._finished = True
            self._cancel()


class AsyncLLM:
    """``generate`` and ``chat`` yield outputs as they come; leaving the iterator frees the request within a step.

    One thread owns the engine; everything that touches it goes through a queue that is emptied between steps.

    ``queue_timeout``: a request that no step has begun within so many seconds ends with ``OverloadedError``; 0: never.
    """

    def __init__(
        self, model: Any = None, *, progress: LoadProgress | None = None, config: Config | None = None, **options: Any
    ) -> None:
        """``config`` takes the place of ``model`` and ``options``. Raises as :func:`penstock.assemble.assemble`."""
        self.model: Model = assemble(config or from_kwargs({"model": model, **options}), progress)
        self.frontend = Frontend(self.model.engine, self.model.tokenizer, self.model.adapters)
        self._commands: queue.SimpleQueue[_Command | None] = queue.SimpleQueue()
        self._streams: dict[str, Inbox] = {}
        self._mailboxes: dict[asyncio.AbstractEventLoop, Mailbox] = {}
        self._grammars = ThreadPoolExecutor(1, "penstock-grammars")
        self._closed = self._abandoned = False
        self.failure: BaseException | None = None
        self.queue_timeout = 0.0
        self._looked = 0.0
        self.last_progress = time.monotonic()
        self._thread = threading.Thread(target=self._loop, name=ENGINE_THREAD, daemon=True)
        self._thread.start()

    async def generate(
        self,
        prompt: str | Sequence[int] | Mapping[str, Any] | Prompt,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        **options: Any,
    ) -> AsyncIterator[RequestOutput]:
        """Complete one prompt. ``sampling_params.output_kind`` says what is yielded.

        Raises ``RequestError`` before the first output if the prompt can never be served, ``ExecutionError`` when the
        model fails, ``OverloadedError`` when the queue is full or the engine has stopped.
        """
        encoded = prompt if isinstance(prompt, Prompt) else await asyncio.to_thread(self.frontend.encode, prompt)
        async for output in self._stream(encoded, sampling_params, request_id, options):
            yield output

    async def chat(
        self,
        messages: Sequence[Message],
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        template_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncIterator[RequestOutput]:
        """Answer one conversation; ``template_options`` go to :func:`penstock.chat.render`."""
        prompt = await asyncio.to_thread(render, self.model, messages, **(template_options or {}))
        async for output in self._stream(prompt, sampling_params, request_id, options):
            yield output

    async def embed(
        self,
        prompt: str | Sequence[int] | Mapping[str, Any] | Prompt,
        request_id: str | None = None,
        *,
        pooling: str = "last",
        normalize: bool = True,
        **options: Any,
    ) -> EmbeddingRequestOutput:
        """The vector of one prompt, as :meth:`penstock.LLM.embed`; a caller that is cancelled frees it."""
        encoded = prompt if isinstance(prompt, Prompt) else await asyncio.to_thread(self.frontend.encode, prompt)
        outputs = [out async for out in self._stream(encoded, POOLED, request_id, {**options, "pooling": pooling})]
        return embedding(outputs[-1], normalize)

    async def load_adapter(self, name: str, path: str | Path) -> AdapterInfo:
        """Load a LoRA or prefix adapter while requests run; they may name it from then on (``adapter=name``)."""
        info: AdapterInfo = await self.call(lambda: self.model.adapters.load(name, path))
        return info

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter. Requests under way that use it finish with it. ``RequestError`` for an unknown name."""
        await self.call(lambda: self.model.adapters.unload(name))

    def default_sampling_params(self) -> SamplingParams:
        """What a request gets that says nothing: the checkpoint's ``generation_config.json`` over the defaults."""
        return default_params(self.model.generation_config)

    @property
    def alive(self) -> bool:
        """Whether the engine's thread runs."""
        return self.failure is None and not self._closed and self._thread.is_alive()

    @property
    def stalled_for(self) -> float:
        """Seconds since a step last ended, while there is work; 0 when idle."""
        return time.monotonic() - self.last_progress if self.model.engine.has_work else 0.0

    async def constrain(self, params: SamplingParams) -> Constraint | None:
        """``params.structured_outputs`` compiled, for one answer; None where nothing is asked.

        Grammars that are known wait for none that are not. Raises ``RequestError`` with the reason for what cannot be
        honoured, ``OverloadedError`` if others' grammars keep this one waiting.
        """
        if params.structured_outputs is None:
            return None
        found = await asyncio.to_thread(self.frontend.constrain, params, known=True)
        if found is not None:
            return found
        work = self._grammars.submit(self.frontend.constrain, params)
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(work)), GRAMMAR_SECONDS)
        except (TimeoutError, asyncio.CancelledError) as error:
            work.cancel()
            if isinstance(error, TimeoutError):
                raise OverloadedError("too many grammars wait to be compiled: try again") from None
            raise

    async def call(self, function: Callable[[], Any]) -> Any:
        """Run ``function`` in the engine's thread, between two steps."""
        return await asyncio.wrap_future(self._submit(function))

    def abandon(self, reason: str) -> None:
        """Give up a step that hangs: whoever waits is told ``reason``, and nothing more is taken.

        A thread cannot be ended from outside: it is left to itself with what it holds. For a process that ends.
        """
        self._abandoned = True
        self.failure = ExecutionError(reason)
        self._end(reason)

    def close(self, patience: float | None = None) -> None:
        """Stop the engine and free everything; requests under way end with ``OverloadedError``. Idempotent.

        ``patience``: seconds that a step gets to end; its thread and what it holds are left behind then. None: as long
        as it takes.
        """
        if not self._closed:
            self._closed = True
            self._commands.put(None)
            self._thread.join(patience)
            if self._thread.is_alive():
                logger.error("the engine's thread has not ended within %g s: it is left behind", patience)
                return
            self._grammars.shutdown(cancel_futures=True)
            self.frontend.close()
            self.model.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self.close)

    async def submit(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        **options: Any,
    ) -> OutputStream:
        """Hand an encoded prompt to the engine; returns once it is accepted, with the stream of its outputs.

        ``options`` go to :meth:`Frontend.add` (``adapter`` …). Raises ``RequestError`` if it can never be served,
        ``OverloadedError`` when the queue is full or the engine has stopped. The caller closes the stream.
        """
        request_id = request_id or uuid4().hex
        params = sampling_params or self.default_sampling_params()
        stream = Inbox(self._mailbox())
        arrival = time.monotonic()
        if "constraint" not in options:
            options["constraint"] = await self.constrain(params)

        def add() -> None:
            self.frontend.add(request_id, prompt, params, arrival_time=arrival, **options)
            self._streams[request_id] = stream

        def cancel() -> None:
            if self._streams.get(request_id) is stream:
                del self._streams[request_id]
                self.frontend.cancel(request_id)

        try:
            await self.call(add)
        except BaseException:
            self._submit(cancel)
            raise
        return OutputStream(request_id, stream, lambda: self._submit(cancel))

    async def _stream(
        self, prompt: Prompt, params: SamplingParams | None, request_id: str | None, options: Mapping[str, Any]
    ) -> AsyncIterator[RequestOutput]:
        stream = await self.submit(prompt, params, request_id, **options)
        try:
            async for output in stream:
                yield output
        finally:
            stream.close()

    def _submit(self, function: Callable[[], Any]) -> Future[Any]:
        command = _Command(function)
        self._commands.put(command)
        if self._abandoned or not self._thread.is_alive():
            self._end()
        return command.future

    def _loop(self) -> None:
        """The engine's thread: commands, then a step, for ever. Sleeps when there is nothing to do."""
        try:
            while not self._abandoned and self._obey():
                if self.queue_timeout:
                    self._expire(time.monotonic())
                outputs = self.frontend.step()
                self.last_progress = time.monotonic()
                self._deliver(outputs)
        except BaseException as error:
            logger.exception("the engine thread failed")
            self.failure = error
        self._end()

    def _expire(self, now: float) -> None:
        """Give up requests that have waited too long for their first step."""
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        for request_id, stream in list(self._streams.items()):
            request = self.model.engine.requests.get(request_id)
            late = now - stream.since > self.queue_timeout
            if late and request is not None and request.metrics.scheduled_time is None:
                del self._streams[request_id]
                self.frontend.cancel(request_id)
                told = OverloadedError(f"the request has waited {self.queue_timeout:g} s for its turn: try again later")
                stream.mailbox.post([(stream, told)], True)

    def _obey(self) -> bool:
        """Run queued commands; waits for one when the engine is idle. False when told to stop."""
        block = not self.model.engine.has_work
        while True:
            try:
                command = self._commands.get(block=block)
            except queue.Empty:
                return True
            if command is None:
                return False
            if block:
                self.last_progress = time.monotonic()
            command.run()
            block = not self.model.engine.has_work

    def _mailbox(self) -> Mailbox:
        """The running loop's."""
        loop = asyncio.get_running_loop()
        found = self._mailboxes.get(loop)
        if found is None:
            for each in [each for each in list(self._mailboxes) if each.is_closed()]:
                self._mailboxes.pop(each, None)
            found = self._mailboxes.setdefault(loop, Mailbox(loop))
        return found

    def _deliver(self, outputs: list[RequestOutput]) -> None:
        by_loop: dict[Mailbox, list[tuple[Inbox, RequestOutput | BaseException]]] = {}
        urgent: set[Mailbox] = set()
        for output in outputs:
            stream = self._streams.get(output.request_id)
            if stream is None:
                continue
            by_loop.setdefault(stream.mailbox, []).append((stream, output))
            if output.finished or not stream.started:
                urgent.add(stream.mailbox)
                stream.started = True
            if output.finished:
                del self._streams[output.request_id]
        for mailbox, items in by_loop.items():
            mailbox.post(items, mailbox in urgent)

    def _end(self, reason: str = "the engine has stopped") -> None:
        """Tell everybody who still waits."""
        for stream in self._streams.values():
            stream.mailbox.post([(stream, OverloadedError(reason))], True)
        self._streams.clear()
        while True:
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                return
            if command is not None:
                command.future.set_exception(OverloadedError(reason))
