"""Sampling parameters from several hands: vLLM's names, Hugging Face's names, and a checkpoint's own defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from penstock.errors import RequestError, nearest
from penstock.types import SamplingParams

FROM_CHECKPOINT = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
NAMES = frozenset(f.name for f in fields(SamplingParams))
HF_NAMES = {"max_new_tokens": "max_tokens", "num_return_sequences": "n", "min_new_tokens": "min_tokens"}
HF_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "use_cache": (True, False, None),
    "num_beams": (1, None),
    "pad_token_id": (),
    "early_stopping": (False, None),
    "length_penalty": (1.0, None),
    "no_repeat_ngram_size": (0, None),
    "typical_p": (1.0, None),
    "return_dict_in_generate": (False, None),
    "output_scores": (False, None),
}
"""HF arguments with the values that change nothing here (empty: any)."""


def default_params(generation_config: Mapping[str, Any]) -> SamplingParams:
    """What a request gets that says nothing: the checkpoint's generation_config over penstock's defaults.

    ``do_sample`` false (or absent together with all sampling values) keeps temperature 1 as vLLM does, unless the file
    says false explicitly, which is greedy.
    """
    found = {k: v for k in FROM_CHECKPOINT if (v := generation_config.get(k)) is not None}
    if generation_config.get("do_sample") is False:
        found = {k: v for k, v in found.items() if k == "repetition_penalty"} | {"temperature": 0.0}
    try:
        return SamplingParams(**found)
    except RequestError:
        return SamplingParams()


def from_hf(kwargs: Mapping[str, Any], base: SamplingParams, prompt_len: int | None = None) -> SamplingParams:
    """Hugging Face's ``generate`` arguments as :class:`SamplingParams`; vLLM's names are understood too.

    ``do_sample`` False (HF's default) is greedy, whatever temperature says; ``max_length`` counts the prompt.
    Raises ``RequestError`` for an argument that is unknown, or known and not available, naming it.
    """
    args = dict(kwargs)
    values: dict[str, Any] = {}
    do_sample = args.pop("do_sample", None)
    max_length = args.pop("max_length", None)
    eos = args.pop("eos_token_id", None)
    for name, value in args.items():
        target = HF_NAMES.get(name, name)
        if target in NAMES:
            if value is not None or target in ("max_tokens", "seed"):
                values[target] = value
        elif name in HF_NEUTRAL:
            allowed = HF_NEUTRAL[name]
            if allowed and value not in allowed:
                raise RequestError(f"{name}={value!r} is not available; leave it out", name)
        else:
            raise RequestError(f"unknown argument '{name}'{nearest(name, [*NAMES, *HF_NAMES, *HF_NEUTRAL])}", name)
    if max_length is not None and "max_tokens" not in values:
        if prompt_len is not None and max_length <= prompt_len:
            raise RequestError(
                f"max_length={max_length} counts the prompt, which has {prompt_len} tokens", "max_length"
            )
        values["max_tokens"] = max_length - (prompt_len or 0)
    if eos is not None:
        ids = [eos] if isinstance(eos, int) else list(eos)
        values["stop_token_ids"] = (*values.get("stop_token_ids", ()), *ids)
    if values.get("top_k") in (None, -1):
        values.pop("top_k", None)
    if do_sample is False or (do_sample is None and "temperature" not in values and base.temperature == 0.0):
        values["temperature"] = 0.0
    elif do_sample and "temperature" not in values and base.greedy:
        values["temperature"] = 1.0
    return replace(base, **values)
