"""Sampling parameters from several hands: vLLM's names, Hugging Face's names, and a checkpoint's own defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from penstock.errors import RequestError, nearest
from penstock.types import MAX_N, SamplingParams, TokenLogprobs

FROM_CHECKPOINT = ("temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty")
NAMES = frozenset(f.name for f in fields(SamplingParams))
HF_NAMES = {
    "max_new_tokens": "max_tokens", "num_return_sequences": "n", "min_new_tokens": "min_tokens", "stop_strings": "stop",
}  # fmt: skip
HF_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "use_cache": (True, False, None),
    "pad_token_id": (),
    "num_workers": (),
    "clean_up_tokenization_spaces": (),
    "tokenizer": (),
    "synced_gpus": (),
    "attention_mask": (None,),
    "truncation": (False, None),
    "handle_long_generation": (None,),
    "no_repeat_ngram_size": (0, None),
    "encoder_no_repeat_ngram_size": (0, None),
    "epsilon_cutoff": (0.0, None),
    "eta_cutoff": (0.0, None),
    "penalty_alpha": (0.0, None),
    "num_beam_groups": (1, None),
    "diversity_penalty": (0.0, None),
    "bad_words_ids": (None,),
    "force_words_ids": (None,),
    "constraints": (None,),
    "logits_processor": (None,),
    "stopping_criteria": (None,),
    "assistant_model": (None,),
    "prompt_lookup_num_tokens": (None,),
    "streamer": (None,),
    "return_dict_in_generate": (False, None),
    "output_scores": (False, None),
    "output_logits": (False, None),
    "output_attentions": (False, None),
    "output_hidden_states": (False, None),
}
"""HF arguments with the values that change nothing here (empty: any)."""
KNOWN = (*NAMES, *HF_NAMES, *HF_NEUTRAL, "num_beams", "do_sample", "max_length", "eos_token_id")
NO_DRAWS: dict[str, Any] = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "typical_p": 1.0}
"""How a checkpoint's defaults must be changed for beam search, which draws nothing."""


@dataclass(frozen=True, slots=True)
class BeamSearchParams:
    """``LLM.beam_search``'s parameters; names as vLLM's, ``early_stopping`` (False, True, "never") as transformers'.

    ``include_stop_str_in_output``: a beam's tokens end with the one that ended it. Raises ``RequestError``.
    """

    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    temperature: float = 0.0
    length_penalty: float = 1.0
    include_stop_str_in_output: bool = False
    early_stopping: bool | str = False
    stop_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.sampling_params()

    def sampling_params(self, logprobs: int | None = None) -> SamplingParams:
        """The same wish as :class:`SamplingParams`: all ``beam_width`` answers."""
        same = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "beam_width"}
        try:
            return SamplingParams(n=self.beam_width, use_beam_search=True, logprobs=logprobs, **same)
        except RequestError as error:
            if error.param == "n":
                raise RequestError(str(error).replace("n must", "beam_width must", 1), "beam_width") from None
            raise


@dataclass(slots=True)
class BeamSearchSequence:
    """One answer: ``tokens`` and ``text`` with the prompt in front, ``cum_logprob`` of the answer alone."""

    tokens: list[int]
    cum_logprob: float
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)


@dataclass(slots=True)
class BeamSearchOutput:
    """A prompt's answers, the best first."""

    sequences: list[BeamSearchSequence]


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

    ``do_sample`` False (HF's default) is greedy, whatever temperature says, or beam search where ``num_beams`` is above
    1; ``num_return_sequences`` of the beams are given out. ``max_length`` counts the prompt.
    Raises ``RequestError`` for an argument that is unknown, or known and not available, naming it.
    """
    args = dict(kwargs)
    values: dict[str, Any] = {}
    do_sample = args.pop("do_sample", None)
    max_length = args.pop("max_length", None)
    eos = args.pop("eos_token_id", None)
    num_beams = args.pop("num_beams", None)
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
            raise RequestError(f"unknown argument '{name}'{nearest(name, KNOWN)}", name)
    if max_length is not None and "max_tokens" not in values:
        if prompt_len is not None and max_length <= prompt_len:
            raise RequestError(
                f"max_length={max_length} counts the prompt, which has {prompt_len} tokens", "max_length"
            )
        values["max_tokens"] = max_length - (prompt_len or 0)
    if eos is not None:
        ids = [eos] if isinstance(eos, int) else list(eos)
        values["stop_token_ids"] = (*values.get("stop_token_ids", ()), *ids)
    if num_beams is not None and num_beams != 1:
        if isinstance(num_beams, bool) or not isinstance(num_beams, int) or not 1 < num_beams <= MAX_N:
            raise RequestError(f"num_beams must be an integer from 1 to {MAX_N}, got {num_beams!r}", "num_beams")
        if isinstance(n := values.get("n", 1), int) and n > num_beams:
            raise RequestError(f"num_return_sequences={n} is more than num_beams={num_beams}", "num_return_sequences")
        values |= {"use_beam_search": True, "best_of": num_beams}
    if values.get("use_beam_search"):
        if do_sample:
            raise RequestError("do_sample=True has no meaning with beam search, which draws nothing", "do_sample")
        return replace(base, **{**values, **NO_DRAWS})
    if values.get("top_k") in (None, -1):
        values.pop("top_k", None)
    if do_sample is False or (do_sample is None and "temperature" not in values and base.temperature == 0.0):
        values["temperature"] = 0.0
    elif do_sample and "temperature" not in values and base.greedy:
        values["temperature"] = 1.0
    return replace(base, **values)
