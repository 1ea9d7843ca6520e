"""The offline API: ``LLM(model).generate(...)``. Names as vLLM's; results in input order."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from penstock.assemble import LoadProgress, Model, assemble
from penstock.config import from_kwargs
from penstock.errors import RequestError, nearest
from penstock.progress import Progress
from penstock.sampling_defaults import BeamSearchOutput, BeamSearchParams, BeamSearchSequence, default_params
from penstock.types import (
    CompletionOutput,
    EmbeddingRequestOutput,
    Message,
    RequestOutput,
    RequestOutputKind,
    SamplingParams,
)

if TYPE_CHECKING:
    from penstock.adapters import AdapterInfo
    from penstock.frontend import Prompt
    from penstock.watermark import Detection

PromptInput = str | Sequence[int] | Mapping[str, Any]
QUEUE = 1024
EXTRAS = ("adapter", "arrival_time", "cache_salt", "client", "pooling", "prefix", "priority")
ELSEWHERE = {
    "lora_request": "load an adapter with load_adapter, then give its name as adapter=",
    "prompt_adapter_request": "load it with load_adapter, then give its name as adapter=",
    "guided_options_request": "give SamplingParams(structured_outputs=…)",
    "tokenization_kwargs": "give token ids as prompt_token_ids",
}
"""vLLM's options of a call for what is done otherwise here."""


class LLM:
    """A loaded model and its engine.

    ``model``: a folder, a file, or a name on a hub; None is the small embedded model. Further options are those of
    ``penstock.config`` (``dtype``, ``max_model_len``, ``kv_cache_memory``, ``threads`` …); an unknown one is a
    ``ConfigError`` with the nearest name. ``progress`` is called while loading with (phase, done, total).
    Not thread-safe: use :class:`penstock.AsyncLLM` for concurrent callers.
    """

    def __init__(self, model: Any = None, *, progress: LoadProgress | None = None, **options: Any) -> None:
        self.model: Model = assemble(from_kwargs({"model": model, **options}), progress, _import_rest)
        from penstock.frontend import Frontend

        self.frontend = Frontend(self.model.engine, self.model.tokenizer, self.model.adapters)
        self._ids = itertools.count()

    def generate(
        self,
        prompts: PromptInput | Sequence[PromptInput] | None = None,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        prompt_token_ids: Sequence[int] | Sequence[Sequence[int]] | None = None,
        *,
        use_tqdm: bool = False,
        adapter: str | Sequence[str | None] | None = None,
        **options: Any,
    ) -> list[RequestOutput]:
        """Complete one prompt or many; each a string, a list of token ids, or a dict holding either.

        ``sampling_params``: one for all, or one each; None takes the checkpoint's defaults. Returns one
        :class:`RequestOutput` a prompt, in input order. ``adapter``: the name of a loaded adapter for all prompts, or
        one (or None) each. Raises ``RequestError`` before anything runs if a prompt can
        never be served, ``ExecutionError`` if the model fails.
        """
        inputs = _inputs(prompts, prompt_token_ids)
        encoded = [self.frontend.encode(p) for p in inputs]
        return self._run(encoded, self._params(sampling_params, len(encoded)), use_tqdm, options, adapter)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = False,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        adapter: str | Sequence[str | None] | None = None,
        **options: Any,
    ) -> list[RequestOutput]:
        """Answer one conversation or many, rendered with the checkpoint's chat template (or ``chat_template``)."""
        from penstock.chat import render

        many = [messages] if not messages or isinstance(messages[0], Mapping) else messages
        encoded = [
            render(
                self.model,
                conversation,  # type: ignore[arg-type]
                chat_template=chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tools=tools,
                kwargs=chat_template_kwargs,
            )
            for conversation in many
        ]
        return self._run(encoded, self._params(sampling_params, len(encoded)), use_tqdm, options, adapter)

    def beam_search(
        self,
        prompts: PromptInput | Sequence[PromptInput],
        params: BeamSearchParams,
        *,
        use_tqdm: bool = False,
        adapter: str | Sequence[str | None] | None = None,
        **options: Any,
    ) -> list[BeamSearchOutput]:
        """The ``beam_width`` best answers to each prompt that a beam search finds, best first; shapes as vLLM's.

        ``generate`` with ``SamplingParams(use_beam_search=True)`` does the same. Raises as ``generate`` does.
        """
        encoded = [self.frontend.encode(p) for p in _inputs(prompts, None)]
        outputs = self._run(encoded, [params.sampling_params(0)] * len(encoded), use_tqdm, options, adapter)
        return [BeamSearchOutput([self._beam(output, a, params) for a in output.outputs]) for output in outputs]

    def _beam(self, output: RequestOutput, answer: CompletionOutput, params: BeamSearchParams) -> BeamSearchSequence:
        tokens = list(answer.token_ids)
        if answer.finish_reason == "stop" and not params.include_stop_str_in_output:
            tokens = tokens[:-1]
        text = None
        if self.model.tokenizer is not None:
            head = self.model.tokenizer.decode(output.prompt_token_ids) if output.prompt is None else output.prompt
            text = head + answer.text
        return BeamSearchSequence(
            tokens=[*output.prompt_token_ids, *tokens],
            cum_logprob=answer.cumulative_logprob or 0.0,
            text=text,
            finish_reason=answer.finish_reason,
            stop_reason=answer.stop_reason,
            logprobs=answer.logprobs or [],
        )

    def stream(
        self,
        prompt: PromptInput | Sequence[Message],
        sampling_params: SamplingParams | None = None,
        **options: Any,
    ) -> Generator[RequestOutput, None, None]:
        """Complete one prompt (or answer one conversation), yielding an output with the new text each step.

        Closing the iterator frees the request.
        """
        from penstock.chat import render

        if not isinstance(prompt, str | Mapping) and len(prompt) > 0 and isinstance(prompt[0], Mapping):
            encoded = render(self.model, prompt)  # type: ignore[arg-type]
        else:
            encoded = self.frontend.encode(prompt)  # type: ignore[arg-type]
        params = replace(sampling_params or self.default_sampling_params(), output_kind=RequestOutputKind.DELTA)
        return self._stream(encoded, params, _extras(options, 1)[0])

    def embed(
        self,
        prompts: PromptInput | Sequence[PromptInput],
        *,
        pooling: str = "last",
        normalize: bool = True,
        use_tqdm: bool = False,
        adapter: str | Sequence[str | None] | None = None,
        **options: Any,
    ) -> list[EmbeddingRequestOutput]:
        """A vector for each prompt: of its last token (``pooling="last"``) or the ``"mean"`` of all, after the final
        norm; of length 1 unless ``normalize`` is false. The same bits alone and in company, in one chunk or many.
        """
        from penstock.frontend import POOLED, embedding

        encoded = [self.frontend.encode(p) for p in _inputs(prompts, None)]
        found = self._run(encoded, [POOLED] * len(encoded), use_tqdm, {**options, "pooling": pooling}, adapter)
        return [embedding(output, normalize) for output in found]

    def load_adapter(self, name: str, path: str | Path) -> AdapterInfo:
        """Load a LoRA or prefix adapter; requests may name it from then on (``adapter=name``).

        Raises ``RequestError`` for a name that is taken, ``ConfigError`` or ``OverloadedError`` for bounds
        (``max_loras``, ``max_lora_rank``, ``max_prefix_share``), ``CheckpointError`` for what its files hold.
        """
        return self.model.adapters.load(name, path)

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter and free its memory. ``RequestError`` for an unknown name."""
        self.model.adapters.unload(name)

    def default_sampling_params(self) -> SamplingParams:
        """What a request gets that says nothing: the checkpoint's ``generation_config.json`` over the defaults."""
        return default_params(self.model.generation_config)

    def get_tokenizer(self) -> Any:
        """The tokenizer; raises ``RequestError`` if it was not loaded."""
        return self.frontend.require_tokenizer("this")

    def detect_watermark(self, text: str | Sequence[int]) -> Detection:
        """How surely ``text``, or token ids, came from this model with ``watermark``; a hundred tokens show it well.

        Raises ``RequestError`` for less than two tokens.
        """
        from penstock.watermark import detect

        mark = self.model.engine.watermark
        ids = self.get_tokenizer().encode(text, add_special_tokens=False) if isinstance(text, str) else text
        return detect(ids, mark.vocab_size, mark.gamma)

    def close(self) -> None:
        """Free weights and cache. Idempotent."""
        self.frontend.close()
        self.model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _params(self, given: SamplingParams | Sequence[SamplingParams] | None, count: int) -> list[SamplingParams]:
        if given is None:
            given = self.default_sampling_params()
        if isinstance(given, SamplingParams):
            return [given] * count
        if isinstance(given, str | Mapping) or not all(isinstance(each, SamplingParams) for each in given):
            raise RequestError("sampling_params must be SamplingParams(…), or a list of them", "sampling_params")
        if len(given) != count:
            raise RequestError(f"{len(given)} sampling_params for {count} prompts: give one for all, or one each")
        return list(given)

    def _run(
        self, prompts: list[Prompt], params: list[SamplingParams], use_tqdm: bool, options: Mapping[str, Any],
        adapter: str | Sequence[str | None] | None = None,
    ) -> list[RequestOutput]:  # fmt: skip
        adapters = _each(adapter, len(prompts))
        extras = _extras(options, len(prompts))
        finals = [replace(p, output_kind=RequestOutputKind.FINAL_ONLY) for p in params]
        order = [f"llm-{next(self._ids)}" for _ in prompts]
        queue = iter(zip(order, prompts, finals, adapters, extras, strict=True))
        done: dict[str, RequestOutput] = {}
        bar = Progress(len(order), "requests") if use_tqdm else None
        try:
            while len(done) < len(order):
                room = QUEUE - self.frontend.num_live
                for request_id, prompt, each, name, extra in itertools.islice(queue, max(0, room)):
                    self.frontend.add(request_id, prompt, each, adapter=name, **extra)
                for output in self.frontend.step():
                    _raise_error(output)
                    done[output.request_id] = output
                if bar is not None:
                    bar.update(len(done))
        except BaseException:
            for request_id in order:
                self.frontend.cancel(request_id)
            raise
        finally:
            if bar is not None:
                bar.close()
        return [done[request_id] for request_id in order]

    def _stream(
        self, prompt: Prompt, params: SamplingParams, options: Mapping[str, Any]
    ) -> Generator[RequestOutput, None, None]:
        request_id = f"llm-{next(self._ids)}"
        self.frontend.add(request_id, prompt, params, **options)
        try:
            finished = False
            while not finished:
                for output in self.frontend.step():
                    if output.request_id == request_id:
                        _raise_error(output)
                        finished = output.finished
                        yield output
        finally:
            self.frontend.cancel(request_id)


def _import_rest() -> None:
    """What is needed behind the weights only: imported while they are packed."""
    for name in ("adapters", "chat", "frontend"):
        import_module(f"penstock.{name}")


def _each(adapter: str | Sequence[str | None] | None, count: int) -> list[str | None]:
    """One adapter for all prompts, or one each."""
    if adapter is None or isinstance(adapter, str):
        return [adapter] * count
    if len(adapter) != count:
        raise RequestError(f"{len(adapter)} adapters for {count} prompts: give one for all, or one each", "adapter")
    return list(adapter)


def _extras(options: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """The options of each request, by the engine's names; ``priority`` may be a list of one each."""
    found = {name: value for name, value in options.items() if value is not None}
    for name in found:
        if name in ELSEWHERE:
            raise RequestError(f"{name} is not here: {ELSEWHERE[name]}", name)
        if name not in EXTRAS:
            raise RequestError(f"unknown option '{name}'{nearest(name, EXTRAS)}", name)
    wish = found.pop("priority", 0)
    turns = list(wish) if isinstance(wish, list | tuple) else [wish] * count
    if len(turns) != count or not all(isinstance(turn, int) and abs(turn) < 1 << 31 for turn in turns):
        raise RequestError("priority must be a whole number, or a list of one for each prompt", "priority")
    return [{**found, "priority": turn} for turn in turns]


def _inputs(prompts: Any, token_ids: Any) -> list[PromptInput]:
    """One prompt or many, as a list of prompts."""
    if token_ids is not None:
        if prompts is not None:
            raise RequestError("give prompts or prompt_token_ids, not both", "prompts")
        prompts = token_ids
    if prompts is None:
        raise RequestError("nothing to generate from: give prompts or prompt_token_ids", "prompts")
    if isinstance(prompts, str | Mapping):
        return [prompts]
    if hasattr(prompts, "tolist"):  # arrays and tensors
        prompts = prompts.tolist()
    if not isinstance(prompts, Iterable) or isinstance(prompts, bytes | bytearray):
        raise RequestError(f"prompts must be text or token ids, got {type(prompts).__name__}", "prompts")
    items = list(prompts)
    if items and isinstance(items[0], int | float | np.number):
        return [items]
    return items


def _raise_error(output: RequestOutput) -> None:
    if output.error is not None:
        from penstock.frontend import failure

        raise failure(output)


__all__ = ["LLM", "CompletionOutput", "PromptInput"]
