"""Hugging Face's ``pipeline("text-generation")`` shape over :class:`penstock.LLM`."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from penstock.chat import render
from penstock.errors import ConfigError, RequestError
from penstock.foreign import device
from penstock.frontend import Prompt
from penstock.llm import LLM
from penstock.sampling_defaults import from_hf
from penstock.types import CompletionOutput, SamplingParams

TASKS = ("text-generation",)
STREAM_BATCH = 256


ENGINE = {
    "dtype", "torch_dtype", "threads", "max_model_len", "revision", "trust_remote_code", "quantization",
    "kv_cache_memory", "max_num_seqs", "executor", "attn_implementation", "low_cpu_mem_usage", "load_in_8bit",
    "load_in_4bit", "quantization_config", "hf_overrides", "chat_template", "skip_tokenizer_init",
}  # fmt: skip
"""Arguments that go to the engine."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Form:
    """How prompts are read and results are given: ``full_text`` with the prompt in front, ``as_ids`` as token ids."""

    full_text: bool = True
    as_ids: bool = False
    prefix: str = ""
    special: bool = True

    def shown(self, given: Any, prompt: Sequence[int], answer: CompletionOutput) -> dict[str, Any]:
        if self.as_ids:
            return {"generated_token_ids": [*prompt, *answer.token_ids]}
        if not self.full_text:
            return {"generated_text": answer.text}
        if _is_chat(given):
            return {"generated_text": [*given, {"role": "assistant", "content": answer.text}]}
        return {"generated_text": given + answer.text if isinstance(given, str) else answer.text}


class TextGenerationPipeline:
    """``pipe(inputs, max_new_tokens=…)`` with HF's arguments: text, a list, messages, or an iterator (results stream).

    Results are lists of ``{"generated_text": …}`` with the prompt in front unless ``return_full_text=False``; messages
    come back with the answer appended. ``max_length`` counts the prompt. Greedy unless ``do_sample=True``.
    """

    def __init__(self, llm: LLM, **defaults: Any) -> None:
        self.llm = llm
        self.defaults = defaults

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.llm.get_tokenizer()

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        options = {**self.defaults, **kwargs}
        options |= options.pop("generate_kwargs", None) or {}
        form = _Form(
            full_text=False not in (options.pop("return_full_text", None), options.pop("return_text", None)),
            as_ids=bool(options.pop("return_tensors", False)),
            prefix=options.pop("prefix", None) or "",
            special=bool(options.pop("add_special_tokens", True)),
        )
        options.pop("batch_size", None)
        if options.get("streamer") is not None:
            raise RequestError("streamer is not available here: use LLM.stream()", "streamer")
        if isinstance(inputs, str) or _is_chat(inputs):
            return self._run([inputs], options, form)[0]
        if isinstance(inputs, Sequence):
            return self._run(list(inputs), options, form)
        if hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__") and not isinstance(inputs, Mapping):
            return self._iterate((inputs[i] for i in range(len(inputs))), options, form)  # a data set
        if isinstance(inputs, Iterable) and not isinstance(inputs, Mapping | bytes):
            return self._iterate(inputs, options, form)
        raise RequestError(f"cannot generate from {type(inputs).__name__}: give text, messages, or several", "inputs")

    def _iterate(self, inputs: Iterable[Any], options: Mapping[str, Any], form: _Form) -> Iterator[Any]:
        source = iter(inputs)
        while batch := list(itertools.islice(source, STREAM_BATCH)):
            yield from self._run(batch, options, form)

    def _run(self, inputs: list[Any], options: Mapping[str, Any], form: _Form) -> list[list[dict[str, Any]]]:
        prompts = [self._prompt(given, form) for given in inputs]
        base = self.llm.default_sampling_params()
        if "do_sample" not in options and "do_sample" not in self.llm.model.generation_config:
            options = {**options, "do_sample": False}
        if not {"max_new_tokens", "max_tokens", "max_length"} & set(options):
            base = replace(base, max_tokens=None if any(map(_is_chat, inputs)) else 256)
        params = [self._fit(from_hf(options, base, len(p.token_ids)), len(p.token_ids)) for p in prompts]
        outputs = self.llm._run(prompts, params, False, {})
        return [
            [form.shown(given, output.prompt_token_ids, answer) for answer in output.outputs]
            for given, output in zip(inputs, outputs, strict=True)
        ]

    def _prompt(self, given: Any, form: _Form) -> Prompt:
        if _is_chat(given):
            return render(self.llm.model, given)
        text = form.prefix + given if isinstance(given, str) else given
        return self.llm.frontend.encode(text, add_special_tokens=form.special)

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
    kwargs |= kwargs.pop("model_kwargs", None) or {}
    engine = {k: kwargs.pop(k) for k in list(kwargs) if k in ENGINE}
    _device(kwargs.pop("device", None))
    for name in ("device_map", "framework", "use_fast", "token", "use_auth_token", "config", "max_memory"):
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


def _device(wish: Any) -> None:
    """Say that the CPU computes, where something else was asked for."""
    try:
        device(wish if wish is not None else "cpu")
    except ConfigError as error:
        logger.warning("%s; going on with the CPU", error)
