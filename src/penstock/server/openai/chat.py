"""``/v1/chat/completions``: a conversation to the next message."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

from penstock.errors import RequestError
from penstock.frontend import Prompt
from penstock.server.answers import Answers
from penstock.server.body import parse, read
from penstock.server.http import Call, Reply, Stream, encode, reply
from penstock.server.openai import adapt, messages
from penstock.server.openai.errors import error_body
from penstock.server.openai.schema import HARMLESS, REFUSED, ChatRequest
from penstock.server.prompts import render_chat
from penstock.server.reading import Reading, reading
from penstock.server.sse import DONE, HOLE, Chunk, event
from penstock.server.state import Served
from penstock.server.structured import wish
from penstock.server.tools.check import check_tools
from penstock.server.tools.pieces import Parser, ToolCall
from penstock.types import CompletionOutput, RequestOutput, SamplingParams


async def chat(call: Call) -> Reply | Stream:
    fields = parse(call.body)
    request = read(fields, ChatRequest, HARMLESS, REFUSED)
    served = call.state.find(request.model)
    name = adapt.answer_id("chatcmpl", request, call.request_id)
    # TGI's own client, which names this model and writes out every field, takes every line of a stream for JSON.
    done = b"" if request.model == "tgi" and {"logit_bias", "repetition_penalty", "seed"} <= fields.keys() else DONE
    work = _Chat(request, served, name, call.state.default_params(served), done)
    offer = check_tools(request.tools, request.tool_choice)
    grammar = adapt.grammar(request)
    prompt = await render_chat(
        served.llm,
        request.messages,
        tools=request.tools if offer.names else None,
        documents=request.documents,
        add_generation_prompt=request.add_generation_prompt is not False,
        continue_final_message=bool(request.continue_final_message),
        kwargs=_template_kwargs(request),
        truncation=adapt.truncation(request, served.llm.model.max_model_len),
    )
    parallel = request.parallel_tool_calls is not False
    work.reading = reading(call.state, served, offer, prompt.text or "", parallel=parallel)
    work.reading = work.reading.within(request.thinking_token_budget, "thinking_token_budget")
    if request.include_reasoning is False:
        work.reading = replace(work.reading, hidden=True)
    must = wish(grammar, offer, request.tools, parallel=parallel)
    work.params = replace(work.params, structured_outputs=must)
    if work.reading.shows_control:
        work.params = replace(work.params, skip_special_tokens=False)
    work.prompt = prompt
    answers = await Answers.submit(served, [prompt], work.params, adapt.engine_options(request), work.reading.thoughts)
    answers.count_thoughts(work.reading.counter(served.llm.model.tokenizer))
    if request.stream:
        return Stream(work.chunks(answers), lambda p: event(error_body(p)) + done, answers.close)
    (output,) = await answers.finals()
    return reply(work.whole(output, answers))


@dataclass(slots=True)
class _Chat:
    """One request: its parameters, and how its answers are written."""

    request: ChatRequest
    served: Served
    id: str
    default: SamplingParams
    done: bytes = DONE
    params: SamplingParams = field(init=False)
    reading: Reading = Reading()  # noqa: RUF009
    prompt: Prompt = field(default_factory=lambda: Prompt([]))
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        request = self.request
        _check_fields(request)
        top = None
        if request.logprobs:
            top = request.top_logprobs or 0
        elif request.top_logprobs:
            raise RequestError("top_logprobs needs logprobs: true", "top_logprobs")
        limit = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
        limits = {"max_tokens": limit} if limit is not None else {}
        self.params = adapt.sampling_params(request, self.default, logprobs=top, **limits)

    @property
    def head(self) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.request.stream else "chat.completion"
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.served.name,
            "system_fingerprint": self.served.fingerprint,
            "service_tier": "default",
        }

    def whole(self, output: RequestOutput, answers: Answers) -> dict[str, Any]:
        found = {
            **self.head,
            "choices": [self._whole_choice(answer) for answer in output.outputs],
            "usage": adapt.usage(answers.usage),
        }
        if self.request.prompt_logprobs is not None:
            found["prompt_logprobs"] = adapt.prompt_logprobs(output.prompt_logprobs)
        found |= self._of_prompt()
        if self.request.return_metrics:
            found["metrics"] = adapt.timings(output.metrics)
        return found

    def _of_prompt(self) -> dict[str, Any]:
        """What is wanted of the prompt, beside the answer or with the first piece of it."""
        found: dict[str, Any] = {}
        if self.request.return_token_ids:
            found["prompt_token_ids"] = list(self.prompt.token_ids)
        if self.request.return_prompt_text:
            found["prompt_text"] = self.prompt.text
        return found

    def _with_prompt(self, piece: bytes) -> bytes:
        """The first piece of a stream, with that."""
        more = self._of_prompt()
        return event({**parse(piece.removeprefix(b"data: ")), **more}) if more else piece

    def _whole_choice(self, answer: CompletionOutput) -> dict[str, Any]:
        message, called = messages.whole(self.reading, answer.text, self._echoed())
        choice: dict[str, Any] = {
            "index": answer.index,
            "message": message,
            "logprobs": self._logprobs(answer),
            "finish_reason": messages.finish_reason(answer, called),
            "stop_reason": answer.stop_reason,
        }
        if self.request.return_token_ids:
            choice["token_ids"] = list(answer.token_ids)
        return choice

    def _echoed(self) -> str:
        """With ``echo``, the message that the answer continues."""
        last = self.request.messages[-1] if self.request.echo and self.request.messages else {}
        content = last.get("content")
        return content if isinstance(content, str) and last.get("role") == "assistant" else ""

    def _logprobs(self, answer: CompletionOutput) -> dict[str, Any] | None:
        if not self.request.logprobs:
            return None
        tokenizer, as_ids = self.served.llm.model.tokenizer, bool(self.request.return_tokens_as_token_ids)
        top = None if self.request.logprob_token_ids else self.request.top_logprobs or 0
        return adapt.chat_logprobs(answer.token_ids, answer.logprobs or (), top, tokenizer, as_ids)

    async def chunks(self, answers: Answers) -> AsyncIterator[bytes]:
        options = self.request.stream_options
        with_usage = bool(options and options.include_usage)
        running_usage = with_usage and bool(options and options.continuous_usage_stats)
        quiet = {"logprobs": None, "finish_reason": None, "stop_reason": None}
        # TGI's own clients, which name no other model than this, want both in every piece.
        always = {"role": "assistant", "tool_calls": None} if self.request.model == "tgi" else {}
        quick_choice = {"index": HOLE, "delta": {**always, "content": HOLE}, **quiet}
        quick = Chunk({**self.head, "choices": [quick_choice], **({"usage": None} if with_usage else {})})
        full = Chunk({**self.head, "choices": [HOLE], **({"usage": HOLE} if with_usage else {})})
        rich = bool(self.request.logprobs or self.request.return_token_ids or running_usage)
        plain = self.reading.plain
        done = [False] * self.params.n
        parsers: list[Parser] = [self.reading.parser() for _ in done]
        calls = [0] * self.params.n

        def chunk(index: int, delta: dict[str, Any], **more: Any) -> bytes:
            holes = [encode({"index": index, "delta": {**always, **delta}, **quiet, **more})]
            if with_usage:
                holes.append(encode(adapt.usage(answers.usage)) if running_usage else b"null")
            return full(*holes)

        opening = {"role": "assistant", "content": self._echoed()}
        for index in range(self.params.n):
            piece = chunk(index, opening)
            yield piece if index else self._with_prompt(piece)
        out: list[bytes] = []
        async for _, output in answers.outputs():
            for answer in output.outputs:
                index = answer.index
                if done[index]:
                    continue
                done[index] = answer.finish_reason is not None
                deltas: list[dict[str, Any]] = []
                if not plain:
                    pieces = parsers[index].feed(answer.text) + (parsers[index].finish() if done[index] else [])
                    deltas = messages.deltas(pieces, calls[index])
                    calls[index] += sum(isinstance(p, ToolCall) for p in pieces)
                elif answer.text and not rich:
                    out.append(quick(b"%d" % index, encode(answer.text)))
                elif answer.text:
                    deltas = [{"content": answer.text}]
                if rich and answer.token_ids:
                    deltas = deltas or [{"content": ""}]
                    more = {"token_ids": list(answer.token_ids)} if self.request.return_token_ids else {}
                    out.append(chunk(index, deltas[0], logprobs=self._logprobs(answer), **more))
                    deltas = deltas[1:]
                out += [chunk(index, delta) for delta in deltas]
                if done[index]:
                    reason = messages.finish_reason(answer, calls[index] > 0)
                    out.append(chunk(index, {}, finish_reason=reason, stop_reason=answer.stop_reason))
            if out and not answers.more:
                yield b"".join(out)
                out = []
        if with_usage:
            last = {**self.head, "choices": [], "usage": adapt.usage(answers.usage)}
            yield event({**last, "metrics": adapt.timings(answers.metrics)} if self.request.return_metrics else last)
        if self.done:
            yield self.done


def _template_kwargs(request: ChatRequest) -> dict[str, Any] | None:
    kwargs = dict(request.chat_template_kwargs or {})
    if request.reasoning_effort is not None:
        kwargs.setdefault("reasoning_effort", request.reasoning_effort)
    return kwargs or None


def _check_fields(request: ChatRequest) -> None:
    if request.best_of is not None and request.best_of != 1 and not request.use_beam_search:
        raise RequestError("best_of belongs to /v1/completions: use n", "best_of")
    adapt.top_logprobs(request.top_logprobs)
    if request.continue_final_message and request.add_generation_prompt:
        raise RequestError(
            "continue_final_message and add_generation_prompt exclude each other", "continue_final_message"
        )
    if request.max_tokens is not None and request.max_completion_tokens not in (None, request.max_tokens):
        raise RequestError(
            f"max_tokens ({request.max_tokens}) and max_completion_tokens ({request.max_completion_tokens}) disagree: "
            "give one",
            "max_completion_tokens",
        )
