"""``/v1/completions``: text, token ids, or lists of either, to text."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.errors import RequestError
from penstock.frontend import Prompt
from penstock.server.answers import Answers
from penstock.server.body import parse, read
from penstock.server.http import Call, Reply, Stream, encode, reply
from penstock.server.openai import adapt
from penstock.server.openai.errors import error_body
from penstock.server.openai.schema import HARMLESS, REFUSED, CompletionRequest
from penstock.server.prompts import MAX_PROMPTS, PromptItem, encode_prompts
from penstock.server.sse import DONE, HOLE, Chunk, event
from penstock.server.state import Served
from penstock.text.detokenizer import Detokenizer
from penstock.types import CompletionOutput, RequestOutput, SamplingParams

MAX_LOGPROBS = 20
MAX_TOKENS = 16
"""OpenAI's default for completions."""


async def completions(call: Call) -> Reply | Stream:
    request = read(parse(call.body), CompletionRequest, HARMLESS, REFUSED)
    served = call.state.find(request.model)
    name = adapt.answer_id("cmpl", request, call.request_id)
    work = _Completion(request, served, name, call.state.default_params(served, MAX_TOKENS))
    prompts = await encode_prompts(
        served.llm,
        prompt_items(request.prompt),
        add_special_tokens=request.add_special_tokens is not False,
        truncation=adapt.truncation(request, served.llm.model.max_model_len),
    )
    answers = await Answers.submit(served, prompts, work.params, adapt.engine_options(request))
    if request.stream:
        return Stream(work.chunks(answers, prompts), lambda p: event(error_body(p)) + DONE, answers.close)
    outputs = await answers.finals()
    return reply(work.whole(outputs, prompts, answers))


def prompt_items(prompt: Any) -> list[PromptItem]:
    """The four shapes of ``prompt`` as a list of prompts."""
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise RequestError("prompt is missing or empty: give text, token ids, or a list of either", "prompt")
    if all(isinstance(p, int) for p in prompt):
        return [prompt]
    if len(prompt) > MAX_PROMPTS:
        raise RequestError(f"{len(prompt)} prompts in one request are more than {MAX_PROMPTS}", "prompt")
    if all(isinstance(p, str) for p in prompt) or all(isinstance(p, list) for p in prompt):
        return list(prompt)
    raise RequestError("prompt must be all text or all token ids, not a mixture", "prompt")


@dataclass(slots=True)
class _Place:
    """Where one streamed answer stands. ``offset``: characters of the text before its next token, as ``spelt`` counts:
    a character of several tokens begins with the first of them."""

    started: bool = False
    done: bool = False
    offset: int = 0
    spelt: Detokenizer | None = None

    def offsets(self, tokens: Sequence[int]) -> list[int]:
        found = []
        for token in tokens:
            found.append(self.offset)
            self.offset += len(self.spelt.push([token])) if self.spelt is not None else 0
        return found


@dataclass(slots=True)
class _Completion:
    """One request: its parameters, and how its answers are written."""

    request: CompletionRequest
    served: Served
    id: str
    default: SamplingParams
    params: SamplingParams = field(init=False)
    nothing: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        request = self.request
        top = request.logprobs
        if top is not None and not 0 <= top <= MAX_LOGPROBS:
            raise RequestError(f"logprobs must be from 0 to {MAX_LOGPROBS}, got {top}", "logprobs")
        more: dict[str, Any] = {"logprobs": top, "structured_outputs": adapt.grammar(request)}
        if request.echo and top is not None and request.prompt_logprobs is None:
            more["prompt_logprobs"] = top
        if request.max_tokens == 0 and request.echo:
            more["max_tokens"], self.nothing = 1, True
        if request.stream and (request.best_of or 1) > (request.n or 1) and not request.use_beam_search:
            raise RequestError("best_of cannot be streamed: the best is known at the end; leave out stream", "best_of")
        if request.best_of is not None and request.n is None:
            more["n"] = 1
        self.params = adapt.sampling_params(request, self.default, **more)

    @property
    def head(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.served.name,
            "system_fingerprint": self.served.fingerprint,
        }

    def whole(self, outputs: Sequence[RequestOutput], prompts: Sequence[Prompt], answers: Answers) -> dict[str, Any]:
        choices = []
        for i, output in enumerate(outputs):
            for answer in output.outputs:
                place = _Place()
                index = i * self.params.n + answer.index
                choices.append(self.choice(index, prompts[i], output, answer, place))
        if self.nothing:
            answers.usage.completion = 0
        more = {"metrics": adapt.timings(answers.metrics)} if self.request.return_metrics else {}
        return {**self.head, "choices": choices, "usage": adapt.usage(answers.usage), **more}

    def choice(
        self, index: int, prompt: Prompt, output: RequestOutput, answer: CompletionOutput, place: _Place
    ) -> dict[str, Any]:
        """The answer's news (all of it, where nothing was told before) as OpenAI's ``choice``."""
        request = self.request
        first, place.started = not place.started, True
        text = "" if self.nothing else answer.text
        tokens = [] if self.nothing else list(answer.token_ids)
        scores: list[Any] = [] if self.nothing else list(answer.logprobs or ())
        offsets: list[int] = []
        if first:
            place.spelt = self._spelt(continued=True)
        if first and request.echo:
            offsets = _Place(spelt=self._spelt(continued=False)).offsets(output.prompt_token_ids)
            echoed = self.echo_text(prompt)
            text, place.offset = echoed + text, len(echoed)
            scores = [*(output.prompt_logprobs or ()), *scores]
        logprobs = None
        if request.logprobs is not None:
            shown = [*output.prompt_token_ids, *tokens] if offsets else tokens
            offsets += place.offsets(tokens)
            as_ids = bool(request.return_tokens_as_token_ids)
            logprobs = adapt.completion_logprobs(shown, scores, offsets, self.served.llm.model.tokenizer, as_ids)
        choice: dict[str, Any] = {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": answer.finish_reason,
            "stop_reason": answer.stop_reason,
        }
        if request.return_token_ids:
            choice["token_ids"] = [] if self.nothing else list(answer.token_ids)
            choice["prompt_token_ids"] = output.prompt_token_ids if first else None
        if request.prompt_logprobs is not None and first:
            choice["prompt_logprobs"] = adapt.prompt_logprobs(output.prompt_logprobs)
        return choice

    def _spelt(self, *, continued: bool) -> Detokenizer | None:
        tokenizer = self.served.llm.model.tokenizer
        if tokenizer is None or self.request.logprobs is None:
            return None
        return Detokenizer(tokenizer, self.params.skip_special_tokens, continued=continued)

    def echo_text(self, prompt: Prompt) -> str:
        if prompt.text is not None and self.request.truncate_prompt_tokens is None:
            return prompt.text
        tokenizer = self.served.llm.model.tokenizer
        return "" if tokenizer is None else tokenizer.decode(prompt.token_ids, self.params.skip_special_tokens)

    async def chunks(self, answers: Answers, prompts: Sequence[Prompt]) -> AsyncIterator[bytes]:
        request = self.request
        options = request.stream_options
        with_usage = bool(options and options.include_usage)
        running_usage = with_usage and bool(options and options.continuous_usage_stats)
        tail = {"usage": None} if with_usage else {}
        plain = {"index": HOLE, "text": HOLE, "logprobs": None, "finish_reason": None, "stop_reason": None}
        quick = Chunk({**self.head, "choices": [plain], **tail})
        full = Chunk({**self.head, "choices": [HOLE], **({"usage": HOLE} if with_usage else {})})
        rich = request.logprobs is not None or bool(request.return_token_ids) or running_usage or self.nothing
        places = [_Place() for _ in range(len(prompts) * self.params.n)]
        out: list[bytes] = []
        async for i, output in answers.outputs():
            for answer in output.outputs:
                index = i * self.params.n + answer.index
                place = places[index]
                opening = not place.started and (request.echo or request.prompt_logprobs is not None)
                news = answer.text or answer.finish_reason or (rich and answer.token_ids) or opening
                if place.done or not news:
                    continue
                place.done = answer.finish_reason is not None
                if rich or opening or place.done:
                    usage = (
                        () if not with_usage else (encode(adapt.usage(answers.usage)) if running_usage else b"null",)
                    )
                    out.append(full(encode(self.choice(index, prompts[i], output, answer, place)), *usage))
                else:
                    place.started = True
                    out.append(quick(b"%d" % index, encode(answer.text)))
            if out and not answers.more:
                yield b"".join(out)
                out = []
        if with_usage:
            if self.nothing:
                answers.usage.completion = 0
            more = {"metrics": adapt.timings(answers.metrics)} if self.request.return_metrics else {}
            yield event({**self.head, "choices": [], "usage": adapt.usage(answers.usage), **more})
        yield DONE
