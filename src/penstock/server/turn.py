"""One turn of a conversation, as the chat dialects share it: messages in, pieces of one answer out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from penstock.errors import ContextLengthError
from penstock.frontend import Prompt
from penstock.server.answers import Answers, Usage
from penstock.server.http import Call
from penstock.server.prompts import render_chat
from penstock.server.reading import Reading, reading
from penstock.server.state import Served
from penstock.server.structured import wish
from penstock.server.tools.check import Offer
from penstock.server.tools.pieces import Piece, Reasoning, Scored, Text, ToolCall
from penstock.types import (
    CompletionOutput,
    Message,
    RequestMetrics,
    RequestOutputKind,
    SamplingParams,
    StructuredOutputs,
)


@dataclass(slots=True)
class Result:
    """A whole turn. ``finish_reason``: stop, length, or tool_calls."""

    pieces: list[Piece]
    finish_reason: str
    stop_reason: int | str | None
    usage: Usage
    metrics: RequestMetrics | None

    @property
    def text(self) -> str:
        return "".join(p.text for p in self.pieces if isinstance(p, Text))

    @property
    def thoughts(self) -> str:
        return "".join(p.text for p in self.pieces if isinstance(p, Reasoning))

    @property
    def calls(self) -> list[ToolCall]:
        return [p for p in self.pieces if isinstance(p, ToolCall)]


@dataclass(slots=True)
class Turn:
    """A turn under way; ``close`` frees it."""

    served: Served
    answers: Answers
    reading: Reading
    metrics: RequestMetrics | None = None
    finish_reason: str = "length"
    stop_reason: int | str | None = None

    async def pieces(self) -> AsyncIterator[list[Piece]]:
        """As they come; ``finish_reason``, ``stop_reason`` and ``answers.usage`` are final after the last."""
        parser, called = self.reading.parser(), False
        kept: list[Piece] = []
        scores: list[Scored] = []
        async for _, output in self.answers.outputs():
            answer: CompletionOutput = output.outputs[0]
            found = parser.feed(answer.text)
            if answer.finish_reason is not None:
                found += parser.finish()
                self.metrics, self.stop_reason = output.metrics, answer.stop_reason
                self.finish_reason = answer.finish_reason
            scores += zip(answer.token_ids, answer.logprobs or (), strict=False)
            if scores and found:
                found, scores = self._scored(found, scores), []
            called = called or any(isinstance(p, ToolCall) for p in found)
            if called and self.finish_reason == "stop":
                self.finish_reason = "tool_calls"
            kept += found
            if not self.answers.more:
                yield kept
                kept = []

    def _scored(self, found: list[Piece], scores: Sequence[Scored]) -> list[Piece]:
        """With the tokens since the last pieces that came: the text's are those at their end that make it up."""
        tokenizer = self.served.llm.model.tokenizer
        last = next((i for i in reversed(range(len(found))) if isinstance(found[i], Text)), None)
        if tokenizer is None or last is None:
            return found
        text = found[last]
        assert isinstance(text, Text)
        mine: list[Scored] = []
        left = len(text.text.encode())
        for token, entry in reversed(scores):
            if left > 0 and token not in tokenizer.special_ids:
                mine.insert(0, (token, entry))
                left -= len(tokenizer.token_bytes(token))
        return [*found[:last], replace(text, scores=tuple(mine)), *found[last + 1 :]]

    async def whole(self) -> Result:
        try:
            pieces = [piece async for some in self.pieces() for piece in some]
        finally:
            self.answers.close()
        return Result(merged(pieces), self.finish_reason, self.stop_reason, self.answers.usage, self.metrics)


async def begin(
    call: Call,
    served: Served,
    messages: Sequence[Message],
    params: SamplingParams,
    *,
    offer: Offer = Offer(),  # noqa: B008
    grammar: StructuredOutputs | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    parallel: bool = True,
    stream: bool = False,
    kwargs: Mapping[str, Any] | None = None,
    reasoning: bool = True,
    hidden: bool = False,
    budget: int | None = None,
    within_context: bool = False,
) -> Turn:
    """Render, encode and submit. ``offer``: what may be called, of ``tools``.

    ``reasoning``: told apart from the answer, else a part of it; ``hidden``: left out. ``budget``: its tokens at most.
    ``within_context``: as ``Answers.submit`` has it.
    """
    prompt = await prompt_of(served, messages, offer=offer, tools=tools, kwargs=kwargs)
    how = reading(call.state, served, offer, prompt.text or "", parallel=parallel)
    if not reasoning:
        how = replace(how, reasons=False, thoughts=None)
    how = how.within(budget)
    if hidden:
        how = replace(how, hidden=True)
    # Scores are told apart by the steps that gave them.
    kind = RequestOutputKind.DELTA if stream or params.logprobs is not None else RequestOutputKind.FINAL_ONLY
    skip = params.skip_special_tokens and not how.shows_control
    must = wish(grammar, offer, tools, parallel=parallel)
    params = replace(params, output_kind=kind, skip_special_tokens=skip, structured_outputs=must)
    answers = await Answers.submit(served, [prompt], params, thoughts=how.thoughts, within_context=within_context)
    answers.count_thoughts(how.counter(served.llm.model.tokenizer))
    return Turn(served, answers, how)


async def begin_with_newest(
    messages: Sequence[dict[str, Any]], attempt: Callable[[Sequence[dict[str, Any]]], Awaitable[Turn]]
) -> Turn:
    """``attempt`` with as many of the newest messages as the context holds; system messages at the head stay."""
    while True:
        try:
            return await attempt(messages)
        except ContextLengthError:
            messages = _without_oldest(messages)
            if not messages:
                raise


def _without_oldest(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """An eighth less of a conversation, from its beginning, and no outcome of a call without the call."""
    lead = 0
    while lead < len(messages) and messages[lead].get("role") in ("system", "developer"):
        lead += 1
    rest = messages[lead:]
    rest = rest[max(1, len(rest) // 8) :]
    while rest and rest[0].get("role") == "tool":
        rest = rest[1:]
    return [*messages[:lead], *rest] if rest else []


async def prompt_of(
    served: Served,
    messages: Sequence[Message],
    *,
    offer: Offer,
    tools: Sequence[Mapping[str, Any]] | None,
    kwargs: Mapping[str, Any] | None = None,
) -> Prompt:
    """What the model is given: an answer that the assistant has begun is gone on with."""
    continued = _is_continued(messages)
    return await render_chat(
        served.llm,
        messages,
        tools=tools if offer.names else None,
        add_generation_prompt=not continued,
        continue_final_message=continued,
        kwargs=kwargs,
    )


def _is_continued(messages: Sequence[Message]) -> bool:
    """Whether the answer goes on from what the assistant has begun to say."""
    last = messages[-1] if messages else {}
    return last.get("role") == "assistant" and bool(last.get("content"))


def merged(pieces: Sequence[Piece]) -> list[Piece]:
    """Neighbours of one kind as one."""
    found: list[Piece] = []
    for piece in pieces:
        last = found[-1] if found else None
        if isinstance(piece, Text) and isinstance(last, Text):
            found[-1] = Text(last.text + piece.text, last.scores + piece.scores)
        elif isinstance(piece, Reasoning) and isinstance(last, Reasoning):
            found[-1] = Reasoning(last.text + piece.text)
        else:
            found.append(piece)
    return found
