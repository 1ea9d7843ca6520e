"""Where text meets the engine: prompts become requests, steps become :class:`RequestOutput`. Used by LLM and AsyncLLM.

The engine knows token ids only and ``text`` strings only; this is the one place that knows both. Not thread-safe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.engine.engine import Engine
from penstock.engine.sequence import Request, SequenceUpdate, TokenScore
from penstock.errors import ContextLengthError, ExecutionError, RequestError
from penstock.text.detokenizer import Detokenizer
from penstock.text.stop import StopChecker
from penstock.text.structured import GrammarCompiler
from penstock.types import (
    F32,
    CompletionOutput,
    Constraint,
    EmbeddingOutput,
    EmbeddingRequestOutput,
    FinishReason,
    Logprob,
    RequestOutput,
    RequestOutputKind,
    SamplingParams,
    StructuredOutputs,
    TokenLogprobs,
)

if TYPE_CHECKING:
    from penstock.adapters import Adapters
    from penstock.text.tokenizer import Tokenizer

MAX_PROMPT_CHARS = 16 << 20
MAX_BAD_WORD = 64
POOLED = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY)
"""Sampling parameters of requests that draw nothing."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt ready for the engine. ``text`` None if it came as ids. ``chat``: the answer starts a text of its own.

    ``stop``, ``stop_ids``: what ends an answer in the prompt's format, besides what the request says.
    """

    token_ids: list[int]
    text: str | None = None
    chat: bool = False
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()


@dataclass(slots=True, eq=False)
class _Answer:
    """One answer's text in the making. ``sent`` counts what DELTA outputs have given out already."""

    detokenizer: Detokenizer | None
    checker: StopChecker
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    cumulative_logprob: float = 0.0
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    sent_text: int = 0
    sent_tokens: int = 0


@dataclass(slots=True, eq=False)
class _Live:
    """A request under way."""

    request: Request
    prompt: Prompt
    params: SamplingParams
    answers: list[_Answer]
    error: str | None = None
    mistake: bool = False
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    pooled: F32 | None = None
    silent: bool = field(init=False)  # until its end; names of enums are too slow to look up at each token
    delta: bool = field(init=False)

    def __post_init__(self) -> None:
        self.silent = self.params.output_kind is RequestOutputKind.FINAL_ONLY
        self.delta = self.params.output_kind is RequestOutputKind.DELTA

    @property
    def done(self) -> bool:
        answers = self.answers
        if len(answers) == 1:  # nearly every request; called at each token
            return answers[0].finish_reason is not None
        return all(a.finish_reason is not None for a in answers[: self.request.num_answers])


class Frontend:
    """Adds prompts to ``engine`` and turns its updates into outputs. ``tokenizer`` None: token ids only."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer | None, adapters: Adapters | None = None) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.adapters = adapters
        facts = engine.facts
        self.compiler = None if tokenizer is None else GrammarCompiler(tokenizer, facts.vocab_size, facts.eos_ids)
        self._live: dict[str, _Live] = {}

    def encode(
        self, prompt: str | Sequence[int] | Mapping[str, Any], *, add_special_tokens: bool = True, bounded: bool = True
    ) -> Prompt:
        """Token ids of a prompt given as text, as ids, or as ``{"prompt": …}`` / ``{"prompt_token_ids": …}``.

        ``bounded``: a text that cannot fit the context is refused before it is cut into tokens.
        """
        if isinstance(prompt, Mapping):
            ids = prompt.get("prompt_token_ids")
            if ids is not None:
                return Prompt(_ids(ids), prompt.get("prompt"))
            if not isinstance(prompt.get("prompt"), str):
                raise RequestError("a prompt given as a dict needs 'prompt' or 'prompt_token_ids'", "prompt")
            prompt = prompt["prompt"]
        if isinstance(prompt, str):
            if len(prompt) > MAX_PROMPT_CHARS:
                raise RequestError(f"the prompt has {len(prompt)} characters, more than {MAX_PROMPT_CHARS}", "prompt")
            tokenizer = self.require_tokenizer("a text prompt")
            if bounded:
                self.check_length(prompt)
            return Prompt(tokenizer.encode_prompt(prompt, add_special_tokens), prompt)
        return Prompt(_ids(prompt))

    def check_length(self, text: str, param: str = "prompt") -> None:
        """Raise ``ContextLengthError`` for a text that is too long for the context however it is cut into tokens."""
        longest = self.engine.facts.max_model_len
        if len(text) <= 8 * longest or self.tokenizer is None:
            return
        least = len(text) // self.tokenizer.longest_token
        if least > longest:
            raise ContextLengthError(
                f"the prompt has {len(text)} characters, at least {least} tokens, but the context is {longest}: "
                "shorten it",
                param,
            )

    def require_tokenizer(self, what: str) -> Tokenizer:
        if self.tokenizer is None:
            raise RequestError(f"{what} needs a tokenizer and this model has none loaded: give prompt_token_ids")
        return self.tokenizer

    def add(
        self, request_id: str, prompt: Prompt, params: SamplingParams, *, adapter: str | None = None, **options: Any
    ) -> None:
        """Queue a request; ``options`` go to :meth:`Engine.add`. Raises ``RequestError`` if it can never be served.

        ``adapter``: the name of a LoRA or prefix that is loaded. ``constraint``: what :meth:`constrain` gave for
        ``params``, if it was called before.
        """
        if adapter is not None:
            options |= self._adapter(adapter)
        if params.structured_outputs is not None and "constraint" not in options:
            options["constraint"] = self.constrain(params)
        if params.stop and (self.tokenizer is None or not params.detokenize):
            raise RequestError("stop strings need text: give stop_token_ids, or load with a tokenizer", "stop")
        if params.bad_words:
            options["bad_words"] = self._bad_words(params.bad_words)
        params = _with_format(params, prompt)
        request = self.engine.add(request_id, prompt.token_ids, params, **options)
        answers = [self._answer(params, prompt) for _ in range(request.num_answers)]
        self._live[request_id] = _Live(request, prompt, params, answers)

    def constrain(self, params: SamplingParams, known: bool = False) -> Constraint | None:
        """``params.structured_outputs`` compiled, for one request; None where nothing is asked. Thread-safe.

        May take seconds; ``known``: None instead, unless it was compiled before. Raises ``RequestError`` with the
        reason for what cannot be honoured.
        """
        spec = params.structured_outputs
        if not isinstance(spec, StructuredOutputs):
            return None
        if self.compiler is None:
            raise RequestError(f"{spec.param} needs a tokenizer and this model has none loaded", spec.param)
        work = self.compiler.find if known else self.compiler.compile
        return work(spec, params.min_tokens, params.allowed_token_ids)

    def _bad_words(self, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """How the tokenizer spells each, alone and behind a space."""
        tokenizer = self.require_tokenizer("bad_words")
        found: dict[tuple[int, ...], None] = {}
        for text in (spelt for word in words for spelt in (word, " " + word.lstrip())):
            ids = tuple(tokenizer.encode(text, add_special_tokens=False, parse_special=False))
            if len(ids) > MAX_BAD_WORD:
                raise RequestError(f"bad_words: '{text[:40]}' has {len(ids)} tokens, over {MAX_BAD_WORD}", "bad_words")
            found[ids] = None
        return tuple(ids for ids in found if ids)

    def close(self) -> None:
        """Free what compiles grammars; the engine is the caller's."""
        if self.compiler is not None:
            self.compiler.close()

    def _adapter(self, name: str) -> dict[str, Any]:
        if self.adapters is None or not isinstance(name, str):
            raise RequestError(f"adapter must be the name of a loaded adapter, got {name!r:.80}", "adapter")
        return self.adapters.options(name)

    def step(self) -> list[RequestOutput]:
        """One engine step, and what every request concerned has to show for it."""
        touched: dict[str, _Live] = {}
        known = self._live
        for update in self.engine.step():
            request_id = update.request.request_id
            live = known.get(request_id)
            if live is not None:
                self._apply(live, update)
                touched[request_id] = live
        outputs = []
        for request_id, live in touched.items():
            done = live.done
            if done:
                del known[request_id]
            elif live.silent:
                continue
            outputs.append(self._output(live, done))
        return outputs

    def cancel(self, request_id: str) -> RequestOutput | None:
        """Free the request at once; its final output (``abort``), or None if it had finished."""
        live = self._live.pop(request_id, None)
        self.engine.cancel(request_id)
        if live is None:
            return None
        for answer in live.answers:
            if answer.finish_reason is None:
                self._close(answer, "abort", None)
        return self._output(live, live.done)

    @property
    def num_live(self) -> int:
        return len(self._live)

    def _answer(self, params: SamplingParams, prompt: Prompt) -> _Answer:
        detokenizer = None
        if self.tokenizer is not None and params.detokenize:
            detokenizer = Detokenizer(
                self.tokenizer,
                params.skip_special_tokens,
                params.spaces_between_special_tokens,
                continued=not prompt.chat,
            )
        return _Answer(detokenizer, StopChecker(params.stop, params.include_stop_str_in_output))

    def _apply(self, live: _Live, update: SequenceUpdate) -> None:
        answer, params = live.answers[update.index], live.params
        if answer.finish_reason is not None:
            return
        if update.error is not None and live.error is None:
            live.error, live.mistake = update.error, update.mistake
        live.pooled = update.pooled
        answer.token_ids += update.token_ids
        for score in update.scores:
            answer.cumulative_logprob += score.logprob
            if params.logprobs is not None:
                answer.logprobs.append(self._logprobs(score))
        if answer.detokenizer is not None and update.token_ids:
            shown = update.token_ids
            ended_by_token = update.finish_reason == "stop"
            if ended_by_token and not params.include_stop_str_in_output:
                shown = shown[:-1]
            result = answer.checker.feed(answer.detokenizer.push(shown), len(answer.token_ids) >= params.min_tokens)
            answer.text += result.text
            if result.stopped:
                answer.finish_reason, answer.stop_reason = "stop", result.matched
                self.engine.stop(live.request.request_id, update.index, result.matched)
                return
        if update.finish_reason is not None:
            self._close(answer, update.finish_reason, update.stop_reason)

    def _close(self, answer: _Answer, reason: FinishReason, stop_reason: int | str | None) -> None:
        if answer.detokenizer is not None:
            result = answer.checker.feed(answer.detokenizer.finish())
            answer.text += result.text
            if result.stopped:
                reason, stop_reason = "stop", result.matched
            else:
                answer.text += answer.checker.finish()
        answer.finish_reason, answer.stop_reason = reason, stop_reason

    def _output(self, live: _Live, done: bool) -> RequestOutput:
        params, request = live.params, live.request
        answers, delta = live.answers, live.delta
        if len(answers) == 1:  # nearly every request, at each token
            outputs = [_completion(0, answers[0], params, delta)]
        else:
            answers = answers[: request.num_answers]
            if request.num_answers > params.n:
                answers = sorted(answers, key=lambda answer: -answer.cumulative_logprob)[: params.n]
            outputs = [_completion(i, answer, params, delta) for i, answer in enumerate(answers)]
        if params.prompt_logprobs is not None and live.prompt_logprobs is None and answers[0].token_ids:
            scores = [self._logprobs(s) for s in request.prompt_scores]
            live.prompt_logprobs = [None, *scores]
        # by position, in the order of its fields: names cost as much as all the rest where every token is given out
        return RequestOutput(
            request.request_id,
            live.prompt.text,
            request.prompt,
            outputs,
            done,
            live.prompt_logprobs,
            request.metrics,
            request.metrics.cached_tokens,
            live.error,
            live.pooled,
            live.mistake,
        )

    def _logprobs(self, score: TokenScore) -> TokenLogprobs:
        """The best tokens in order, then the chosen one if it is not among them."""
        ranks = score.top_ranks or range(1, len(score.top_ids) + 1)
        found = {
            token: Logprob(logprob, rank, self._text(token))
            for rank, token, logprob in zip(ranks, score.top_ids, score.top_logprobs, strict=True)
            if token >= 0
        }
        found.setdefault(score.token_id, Logprob(score.logprob, score.rank, self._text(score.token_id)))
        return found

    def _text(self, token: int) -> str | None:
        return None if self.tokenizer is None else self.tokenizer.token_text(token)


def _completion(index: int, answer: _Answer, params: SamplingParams, delta: bool) -> CompletionOutput:
    text, ids = answer.text, answer.token_ids
    text_from, ids_from = (answer.sent_text, answer.sent_tokens) if delta else (0, 0)
    answer.sent_text, answer.sent_tokens = len(text), len(ids)
    scored = params.logprobs is not None
    return CompletionOutput(
        index,
        text[text_from:],
        ids[ids_from:],
        answer.cumulative_logprob if scored or params.use_beam_search else None,
        answer.logprobs[ids_from:] if scored else None,
        answer.finish_reason,
        answer.stop_reason,
    )


def failure(output: RequestOutput) -> ExecutionError | RequestError:
    """What to raise for an output with an error."""
    message = output.error or "the request ended without a result"
    return RequestError(message) if output.mistake else ExecutionError(message)


def embedding(output: RequestOutput, normalize: bool = True) -> EmbeddingRequestOutput:
    """What a request with ``pooling`` gave; ``normalize``: scaled to length 1. ``ExecutionError`` if it failed."""
    if output.error is not None or output.pooled is None:
        raise failure(output)
    vector = output.pooled.astype(np.float64)
    length = float(np.sqrt((vector * vector).sum()))
    if normalize and length > 0:
        vector = vector / length
    return EmbeddingRequestOutput(
        output.request_id,
        EmbeddingOutput(vector.astype(np.float32).tolist()),
        output.prompt_token_ids,
        output.num_cached_tokens,
        output.metrics,
    )


def _with_format(params: SamplingParams, prompt: Prompt) -> SamplingParams:
    """Add what ends an answer in the prompt's own format."""
    if (not prompt.stop and not prompt.stop_ids) or params.ignore_eos:
        return params
    stop = dict.fromkeys((*params.stop, *(prompt.stop if params.detokenize else ())))
    ids = dict.fromkeys((*params.stop_token_ids, *prompt.stop_ids))
    return replace(params, stop=tuple(stop), stop_token_ids=tuple(ids))


def _ids(ids: object) -> list[int]:
    if isinstance(ids, np.ndarray):
        ids = ids.tolist()
    if isinstance(ids, bytes | str) or not isinstance(ids, Sequence):
        raise RequestError("token ids must be a list of integers", "prompt_token_ids")
    if any(isinstance(t, bool) or not isinstance(t, int | np.integer) for t in ids):
        raise RequestError("token ids must be a list of integers", "prompt_token_ids")
    return [int(t) for t in ids]
