"""How a request chooses its tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

import numpy as np

from penstock.errors import RequestError, nearest
from penstock.types.common import bad
from penstock.types.structured import StructuredOutputs

MAX_N = 128
MAX_LOGPROBS = 100
MAX_STOPS = 64
MAX_BAD_WORDS = 128
MAX_SCORED = 128
MAX_LOGIT_BIAS = 4096
MAX_TOKENS = 1 << 24
MAX_PATTERN = 1024

FLAGS = (
    "ignore_eos",
    "detokenize",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "include_stop_str_in_output",
    "use_beam_search",
    "watermark",
)

BEAM_NEUTRAL: dict[str, tuple[float, ...]] = {
    "temperature": (0.0, 1.0),
    "top_p": (1.0,),
    "top_k": (0,),
    "min_p": (0.0,),
    "typical_p": (1.0,),
    "presence_penalty": (0.0,),
    "frequency_penalty": (0.0,),
}
"""What beam search has no use for, with the values that change nothing."""


@dataclass(frozen=True, slots=True)
class RepetitionDetection:
    """An answer ends when its last tokens are ``min_count`` times the same ``min_pattern_size`` to ``max_pattern_size``
    tokens. Names and meaning are vLLM's; 0 is off. Raises ``RequestError``."""

    max_pattern_size: int = 0
    min_pattern_size: int = 0
    min_count: int = 0

    def __post_init__(self) -> None:
        for name in ("max_pattern_size", "min_pattern_size", "min_count"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_PATTERN:
                raise bad(f"repetition_detection.{name}", value, f"an integer from 0 to {MAX_PATTERN}")
        if self.min_pattern_size > self.max_pattern_size:
            raise bad("repetition_detection.min_pattern_size", self.min_pattern_size, "at most max_pattern_size")
        if self.max_pattern_size and self.min_count < 2:
            raise bad("repetition_detection.min_count", self.min_count, "at least 2")

    @classmethod
    def of(cls, given: Any) -> RepetitionDetection | None:
        """From a request's mapping; None where it asks for nothing. Raises ``RequestError``."""
        if isinstance(given, Mapping):
            known = [f.name for f in fields(cls)]
            for name in given:
                if name not in known:
                    said = f"repetition_detection: unknown option '{str(name)[:64]}'{nearest(str(name), known)}"
                    raise RequestError(said, "repetition_detection")
            given = cls(**given)
        elif given is not None and not isinstance(given, cls):
            raise bad("repetition_detection", given, "a RepetitionDetection or a mapping of its fields")
        return given if given is not None and given.max_pattern_size else None


class RequestOutputKind(Enum):
    """What a stream yields: all text so far, only what is new, or one final output."""

    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen. Names and meanings as vLLM's; every field is checked on construction.

    Order: ``logit_bias``, ``watermark``, penalties (repetition over prompt and output as in transformers; presence and
    frequency over output), ``temperature`` (0 is greedy), ``top_k`` (0 or -1 off), ``top_p``, ``min_p``, ``typical_p``
    (1 off; locally typical sampling, as in transformers and TGI), then one draw with ``seed``.
    ``max_tokens`` None means as many as the context allows. ``logprobs`` n: the chosen token's and the n best, of the
    raw distribution. Raises ``RequestError`` that names the field.

    ``bad_words``: texts that an answer does not say: the last token of how the tokenizer spells each, alone and behind
    a space, is impossible behind the others. ``logprob_token_ids``: the log probabilities of these tokens, in the
    place of the best ones. ``repetition_detection``: end an answer that goes round in circles, with ``finish_reason``
    "repetition". ``watermark``: favour what a hash of the token before calls green, as TGI does, so that
    ``penstock.watermark.detect`` tells the answer from others (the share and the strength are the engine's
    ``watermark_gamma`` and ``watermark_delta``).

    ``use_beam_search``: the best ``n`` answers that ``best_of`` (else ``n``) beams find, given out when all are known;
    nothing is drawn. ``length_penalty`` and ``early_stopping`` (True, False, "never") as in transformers: the answers'
    order is by ``cumulative_logprob / tokens ** length_penalty``. Stop strings cut the answers that were found.
    """

    n: int = 1
    best_of: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logprob_token_ids: tuple[int, ...] | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    logit_bias: Mapping[int, float] | None = None
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[str, ...] = ()
    repetition_detection: RepetitionDetection | Mapping[str, Any] | None = None
    structured_outputs: StructuredOutputs | Mapping[str, Any] | None = None
    watermark: bool = False
    use_beam_search: bool = False
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        if isinstance(self.stop, str):
            set_(self, "stop", (self.stop,))
        set_(self, "stop", tuple(self.stop or ()))
        set_(self, "bad_words", (self.bad_words,) if isinstance(self.bad_words, str) else tuple(self.bad_words or ()))
        set_(self, "stop_token_ids", tuple(self.stop_token_ids or ()))
        for name in ("allowed_token_ids", "logprob_token_ids"):
            if getattr(self, name) is not None:
                set_(self, name, tuple(getattr(self, name)))
        set_(self, "repetition_detection", RepetitionDetection.of(self.repetition_detection))
        set_(self, "logprob_token_ids", self.logprob_token_ids or None)
        if self.logprob_token_ids and self.logprobs is None:
            set_(self, "logprobs", 0)
        if self.top_k == -1:
            set_(self, "top_k", 0)
        if isinstance(self.structured_outputs, Mapping):
            set_(self, "structured_outputs", StructuredOutputs.of(self.structured_outputs))
        elif not isinstance(self.structured_outputs, StructuredOutputs | None):
            raise bad("structured_outputs", self.structured_outputs, "a StructuredOutputs or a mapping of its fields")
        for name in FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise bad(name, getattr(self, name), "true or false")
        self._check_counts()
        self._check_numbers()
        self._check_lists()
        self._check_beams()

    def _check_counts(self) -> None:
        for name, low, high in (
            ("n", 1, MAX_N),
            ("best_of", 1, MAX_N),
            ("top_k", 0, 1 << 31),
            ("max_tokens", 1, MAX_TOKENS),
            ("min_tokens", 0, MAX_TOKENS),
            ("logprobs", 0, MAX_LOGPROBS),
            ("prompt_logprobs", 0, MAX_LOGPROBS),
            ("seed", -(1 << 63), (1 << 64) - 1),
        ):
            value = getattr(self, name)
            if value is None and name in ("best_of", "max_tokens", "logprobs", "prompt_logprobs", "seed"):
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
                raise bad(name, value, f"an integer from {low} to {high}")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise bad("min_tokens", self.min_tokens, f"at most max_tokens ({self.max_tokens})")
        if self.best_of is not None and self.best_of < self.n:
            raise bad("best_of", self.best_of, f"at least n ({self.n})")

    def _check_numbers(self) -> None:
        for name, low, high, open_low in (
            ("temperature", 0.0, 100.0, False),
            ("top_p", 0.0, 1.0, True),
            ("min_p", 0.0, 1.0, False),
            ("typical_p", 0.0, 1.0, True),
            ("repetition_penalty", 0.0, 100.0, True),
            ("presence_penalty", -100.0, 100.0, False),
            ("frequency_penalty", -100.0, 100.0, False),
            ("length_penalty", -10.0, 10.0, False),
        ):
            value = getattr(self, name)
            ok = isinstance(value, int | float | np.floating) and not isinstance(value, bool) and math.isfinite(value)
            if not ok or not (low < value if open_low else low <= value) or value > high:
                raise bad(name, value, f"a number {'above' if open_low else 'from'} {low:g} up to {high:g}")

    def _check_beams(self) -> None:
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise bad("early_stopping", self.early_stopping, 'true, false or "never"')
        if not self.use_beam_search:
            for name, usual in (("length_penalty", 1.0), ("early_stopping", False)):
                if getattr(self, name) != usual:
                    raise RequestError(f"{name} belongs to beam search: set use_beam_search, or leave it out", name)
            return
        for name, allowed in BEAM_NEUTRAL.items():
            if getattr(self, name) not in allowed:
                said = f"{name}={getattr(self, name)!r} has no meaning with use_beam_search, which draws nothing"
                raise RequestError(f"{said}: leave it out", name)

    def _check_lists(self) -> None:
        if len(self.stop) > MAX_STOPS or any(not isinstance(s, str) or not s for s in self.stop):
            raise bad("stop", self.stop, f"at most {MAX_STOPS} strings, none empty")
        if len(self.bad_words) > MAX_BAD_WORDS or any(not isinstance(w, str) or not w.strip() for w in self.bad_words):
            raise bad("bad_words", self.bad_words, f"at most {MAX_BAD_WORDS} texts, none blank")
        for name in ("logprob_token_ids", "repetition_detection", "watermark"):
            if getattr(self, name) and self.use_beam_search:
                raise RequestError(f"{name} is not available with use_beam_search: leave one of them out", name)
        if len(self.logprob_token_ids or ()) > MAX_SCORED:
            raise bad("logprob_token_ids", f"{len(self.logprob_token_ids or ())} ids", f"at most {MAX_SCORED}")
        if self.logprob_token_ids and self.logprobs:
            raise RequestError("give logprobs or logprob_token_ids, not both", "logprob_token_ids")
        for name in ("stop_token_ids", "allowed_token_ids", "logprob_token_ids"):
            ids = getattr(self, name)
            if ids and any(isinstance(t, bool) or not isinstance(t, int | np.integer) or t < 0 for t in ids):
                raise bad(name, ids, "token ids (integers from 0)")
        if self.allowed_token_ids is not None and not self.allowed_token_ids:
            raise bad("allowed_token_ids", [], "None or at least one token id")
        if self.logit_bias:
            if len(self.logit_bias) > MAX_LOGIT_BIAS:
                raise bad("logit_bias", f"{len(self.logit_bias)} entries", f"at most {MAX_LOGIT_BIAS} entries")
            for token, bias in self.logit_bias.items():
                if not isinstance(token, int) or token < 0 or not isinstance(bias, int | float) or not abs(bias) <= 100:
                    raise bad("logit_bias", {token: bias}, "token ids with a bias from -100 to 100")

    @property
    def greedy(self) -> bool:
        return self.temperature < 1e-5 or self.top_k == 1 or self.use_beam_search
