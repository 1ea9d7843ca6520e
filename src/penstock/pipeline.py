"""Hugging Face's ``pipeline("text-generation")`` shape over :class:`penstock.LLM`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from penstock.chat import render
from penstock.errors import RequestError
from penstock.llm import LLM
from penstock.sampling_defaults import from_hf
from penstock.types import SamplingParams

TASKS = ("text-generation",)
STREAM_BATCH = 256


class TextGenerationPipeline:
    """``pipe(inputs, max_new_tokens=…)`` with HF's arguments: text, a list, messages, or an iterator (results stream).

    Results are lists of ``{"generated_text": …}`` with the prompt in front unless ``return_full_text=False``; messages
    come back with the answer appended. ``max_length`` counts the prompt. Greedy unless ``do_sample=True``.
    """

    def __init__(self, llm: LLM, **defaults: Any) -> None:
        self.llm = llm
        self.defaults = defaults

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        options = {**self.defaults, **kwargs}
        full_text = options.pop("return_full_text", True)
        options.pop("batch_size", None)
        streamer = options.pop("streamer", None)
        if streamer is not None:
            raise RequestError("streamer is not available here: use LLM.stream()", "streamer")
        if isinstance(inputs, str) or _is_chat(inputs):
            return self._run([inputs], options, full_text)[0]
        if isinstance(inputs, Sequence):
            return self._run(list(inputs), options, full_text)
        if isinstance(inputs, Iterable):
            return self._iterate(inputs, options, full_text)
        raise RequestError(f"cannot generate from {type(inputs).__name__}: give text, messages, or several", "inputs")

    def _iterate(self, inputs: Iterable[Any], options: Mapping[str, Any], full_text: bool) -> Iterator[Any]:
        source = iter(inputs)
        while batch := list(itertools.islice(source, STREAM_BATCH)):
            yield from self._run(batch, options, full_text)

    def _run(self, inputs: list[Any], options: Mapping[str, Any], full_text: bool) -> list[list[dict[str, Any]]]:
        frontend = self.llm.frontend
        prompts = [render(self.llm.model, i) if _is_chat(i) else frontend.encode(i) for i in inputs]
        base = self.llm.default_sampling_params()
        if "do_sample" not in options and "do_sample" not in self.llm.model.generation_config:
            options = {**options, "do_sample": False}
        if not {"max_new_tokens", "max_tokens", "max_length"} & set(options):
            base = replace(base, max_tokens=None if any(map(_is_chat, inputs)) else 256)
        params = [self._fit(from_hf(options, base, len(p.token_ids)), len(p.token_ids)) for p in prompts]
        outputs = self.llm._run(prompts, params, False, {})
        return [
            [{"generated_text": _joined(given, answer.text, full_text)} for answer in output.outputs]
            for given, output in zip(inputs, outputs, strict=True)
        ]

    def _fit(self, params: SamplingParams, prompt_len: int) -> SamplingParams:
        """HF generates up to the context's end; so does this, instead of refusing."""
        room = self.llm.model.max_model_len - prompt_len
        if params.max_tokens is not None and 0 < room < params.max_tokens:
            return replace(params, max_tokens=room, min_tokens=min(params.min_tokens, room))
        return params


def pipeline(
    task: str | None = None, model: Any = None, tokenizer: Any = None, **kwargs: Any
) -> TextGenerationPipeline:
    """``pipeline("text-generation", model)``, also ``pipeline(model=…)``. ``device`` and the like are accepted.

    ``model`` is a path or a name (None: the embedded model), or an :class:`LLM`. Keyword arguments that are engine
    options go to it, the rest are defaults of every call.
    """
    if task is not None and task not in TASKS:
        raise RequestError(f"task '{task}' is not available; known: {', '.join(TASKS)}", "task")
    engine_names = {"dtype", "torch_dtype", "threads", "max_model_len", "revision", "trust_remote_code", "quantization"}
    engine = {k: kwargs.pop(k) for k in list(kwargs) if k in engine_names}
    for name in ("device", "device_map", "framework", "model_kwargs", "use_fast"):
        kwargs.pop(name, None)
    if not isinstance(model, LLM):
        if isinstance(tokenizer, str):
            engine["tokenizer"] = tokenizer
        model = LLM(model, **engine)
    return TextGenerationPipeline(model, **kwargs)


def _is_chat(value: Any) -> bool:
    return (
        isinstance(value, Sequence) and len(value) > 0 and not isinstance(value, str) and isinstance(value[0], Mapping)
    )


def _joined(given: Any, answer: str, full_text: bool) -> Any:
    if not full_text:
        return answer
    if _is_chat(given):
        return [*given, {"role": "assistant", "content": answer}]
    return given + answer if isinstance(given, str) else answer
