"""Beam search: which continuations of a request's beams live on, and when the best answers are known.

A beam is an ordinary :class:`Sequence` in an ordinary schedule; a request has ``width`` of them from the end of its
prompt. What differs is how the next tokens are chosen: jointly, once every beam has its candidates. A beam that has
them waits for the others with nothing to compute; the sequence of one that dies takes over the tokens and the (shared)
blocks of one that goes on twice.

Semantics of transformers 5: candidates are ranked by summed log probability (raw distribution; ties: better beam, then
lower token id). Of the best ``width``, those that end become hypotheses with score ``sum / tokens ** length_penalty``;
the best ``width`` that do not end live on. The search ends when no beam lives, or ``width`` hypotheses are there and
``early_stopping`` is True, or the best beam cannot beat the worst of them: judged at its present length, or, if
``early_stopping`` is "never" and ``length_penalty`` positive, at the longest one it may reach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from penstock.engine.sequence import Request, Sequence, Status, TokenScore
from penstock.errors import RequestError
from penstock.types import F32, Constraint, FinishReason, StepOutput

MAX_ENDS = 256
Adopt = Callable[[Sequence, Sequence], None]
"""``(sequence, parent)``: give the sequence its parent's tokens and blocks, instead of its own."""


@dataclass(slots=True)
class Candidates:
    """A beam's next tokens, best first by ``values``; ``logprobs`` and ``ranks`` are the raw distribution's."""

    ids: list[int]
    values: list[float]
    logprobs: list[float]
    ranks: list[int]
    top_ids: tuple[int, ...]
    top_logprobs: tuple[float, ...]

    def score(self, place: int) -> TokenScore:
        raw = self.logprobs[place], self.ranks[place]
        return TokenScore(self.ids[place], *raw, self.top_ids, self.top_logprobs)


@dataclass(slots=True, eq=False)
class Beam:
    """A live beam. ``tokens`` and ``constraint`` are its own only while the search is folded."""

    seq: Sequence
    total: float = 0.0
    scores: list[TokenScore] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished answer."""

    token_ids: tuple[int, ...]
    scores: tuple[TokenScore, ...]
    score: float
    finish_reason: FinishReason
    stop_reason: int | None = None


@dataclass(frozen=True, slots=True)
class _Choice:
    """One candidate of one beam."""

    total: float
    beam: Beam
    token: int
    score: TokenScore


class BeamSearch:
    """The search of one request. ``constrained``: its answers have a constraint."""

    def __init__(self, request: Request, constrained: bool) -> None:
        params = request.params
        if len(request.last_ids) > MAX_ENDS:
            raise RequestError(f"stop_token_ids: at most {MAX_ENDS} with use_beam_search", "stop_token_ids")
        self.request = request
        self.width = request.width
        self.early_stopping = True if self.width == 1 else params.early_stopping  # one beam is greedy
        # A beam's best tokens, so many that ``width`` are left if all that end an answer are among them.
        self.count = self.width + len(request.last_ids)
        self.wants_logits = bool(
            constrained
            or request.mask is not None
            or params.logit_bias
            or params.repetition_penalty != 1.0
            or request.bad_words
        )
        self.constrained = constrained
        self.beams: list[Beam] = []  # best first
        self.finished: list[Hypothesis] = []  # best first
        self.folded = False
        self._found: dict[int, Candidates] = {}

    def take(self, seq: Sequence, candidates: Candidates) -> bool:
        """Note what may follow ``seq``; whether all sequences have theirs."""
        self._found[seq.index] = candidates
        return len(self._found) == self.width

    def advance(self, adopt: Adopt) -> bool:
        """One step of the search, when all candidates are there; True when it is over.

        Raises ``ExecutionError`` if a constraint cannot take a token that it allowed.
        """
        found, self._found = self._found, {}
        if self.folded:
            self._unfold()
            return False
        self.beams = self.beams or [Beam(self.request.sequences[0])]
        length = self.beams[0].seq.num_output + 1
        live = self._select(self._ranked(found, length), length)
        if self._over(live, length):
            return True
        self._grow(live, adopt)
        return False

    def answers(self) -> list[Hypothesis]:
        """The best ``n``; fewer if there are no more."""
        return self.finished[: self.request.params.n]

    def fold(self) -> Sequence:
        """Keep the beams' tokens and let go of their sequences but the first, which has the prompt to compute anew."""
        request = self.request
        first = request.sequences[0]
        if self.beams and not self.folded:
            self.folded = True
            for beam in self.beams:
                beam.tokens, beam.constraint = beam.seq.tokens, beam.seq.constraint
        for seq in request.sequences[1:]:
            seq.status = Status.FINISHED
        request.sequences[1:] = []
        self._found = {}
        first.tokens, first.block_names = list(request.prompt), []
        return first

    @property
    def to_regrow(self) -> int:
        """Tokens behind the prompt that each sequence will compute again."""
        return len(self.beams[0].tokens) - len(self.request.prompt) if self.folded else 0

    def _unfold(self) -> None:
        """The prompt is computed and shared: each sequence goes on with a beam's tokens."""
        self.folded = False
        sequences = self.request.sequences
        for beam, seq in zip(self.beams, sequences, strict=False):
            beam.seq, seq.tokens, seq.constraint = seq, beam.tokens, beam.constraint
        for seq in sequences[len(self.beams) :]:
            seq.tokens, seq.constraint = list(sequences[0].tokens), _copy(sequences[0].constraint)

    def _ranked(self, found: dict[int, Candidates], length: int) -> Iterator[_Choice]:
        """All candidates, best first."""
        barred = self.request.last_ids if length <= self.request.params.min_tokens and not self.constrained else ()
        order = []
        for rank, beam in enumerate(self.beams):
            candidates = found[beam.seq.index]
            for place, (token, value) in enumerate(zip(candidates.ids, candidates.values, strict=True)):
                if token >= 0 and value > -np.inf and token not in barred:
                    order.append((-(beam.total + value), rank, token, place))
        order.sort()
        for total, rank, token, place in order:
            beam = self.beams[rank]
            yield _Choice(-total, beam, token, found[beam.seq.index].score(place))

    def _select(self, ranked: Iterable[_Choice], length: int) -> list[_Choice]:
        """Those that live on; those that end and are good enough become hypotheses."""
        request = self.request
        live: list[_Choice] = []
        for place, choice in enumerate(ranked):
            if place >= self.width and (len(live) == self.width or length >= request.max_tokens):
                break
            if choice.token in request.last_ids or length >= request.max_tokens:
                if place < self.width:
                    self.finished.append(self._hypothesis(choice, length))
            elif len(live) < self.width:
                live.append(choice)
        self.finished.sort(key=lambda h: -h.score)
        del self.finished[self.width :]
        return live

    def _hypothesis(self, choice: _Choice, length: int) -> Hypothesis:
        request, token = self.request, choice.token
        stopped = token in request.last_ids
        return Hypothesis(
            token_ids=(*choice.beam.seq.tokens[len(request.prompt) :], token),
            scores=(*choice.beam.scores, choice.score),
            score=choice.total / length**request.params.length_penalty,
            finish_reason="stop" if stopped else "length",
            stop_reason=token if stopped and token not in request.eos_ids else None,
        )

    def _over(self, live: list[_Choice], length: int) -> bool:
        if not live:
            return True
        if len(self.finished) < self.width:
            return False
        penalty = self.request.params.length_penalty
        reach = self.request.max_tokens if self.early_stopping == "never" and penalty > 0 else length
        return self.early_stopping is True or live[0].total / reach**penalty <= self.finished[-1].score

    def _grow(self, live: list[_Choice], adopt: Adopt) -> None:
        """Hand the sequences on: a beam's best continuation keeps its sequence, others take over one that is spare.

        Where fewer live than there are sequences, the rest follow the best beam and are passed over.
        """
        kept: set[Sequence] = set()
        doubled: list[tuple[_Choice, Beam]] = []
        beams = []
        for choice in live:
            parent = choice.beam.seq
            beam = Beam(parent, choice.total, [*choice.beam.scores, choice.score])
            beams.append(beam)
            if parent in kept:
                doubled.append((choice, beam))
            kept.add(parent)
        spare = [seq for seq in self.request.sequences if seq not in kept]
        for choice, beam in doubled:
            beam.seq = spare.pop(0)
            adopt(beam.seq, choice.beam.seq)
        for seq in spare:
            adopt(seq, live[0].beam.seq)
        grown = [(beam.seq, choice.token) for beam, choice in zip(beams, live, strict=True)]
        for seq, token in grown + [(seq, live[0].token) for seq in spare]:
            seq.append(token)
            if seq.constraint is not None:
                seq.constraint.accept(token)
        self.beams = beams


def read(seq: Sequence, search: BeamSearch, output: StepOutput, entry: int, row: int) -> Candidates:
    """What may follow ``seq``, from sampling entry ``entry`` of a step, whose logits are ``row``."""
    assert output.top_ids is not None
    assert output.top_logprobs is not None
    ids: list[int] = output.top_ids[entry].tolist()
    logprobs: list[float] = output.top_logprobs[entry].tolist()
    wanted = seq.request.params.logprobs or 0
    best = tuple(ids[:wanted]), tuple(logprobs[:wanted])
    if search.wants_logits:
        assert output.logits is not None
        return _processed(seq, search.count, output.logits[row], *best)
    count = search.count
    return Candidates(ids[:count], logprobs[:count], logprobs[:count], list(range(1, count + 1)), *best)


def _processed(
    seq: Sequence, count: int, logits: F32, top_ids: tuple[int, ...], top_logprobs: tuple[float, ...]
) -> Candidates:
    """The ``count`` best after repetition penalty, bias, bad words and mask, which change log probabilities as in
    transformers."""
    request, params = seq.request, seq.request.params
    x = logits.astype(np.float64)
    top = x.max()
    raw = x - (top + np.log(np.exp(x - top).sum()))
    values = raw.copy()
    if params.repetition_penalty != 1.0:
        values[np.unique(seq.tokens)] *= params.repetition_penalty
    for token, bias in (params.logit_bias or {}).items():
        values[token] += bias
    values[seq.barred()] = -np.inf
    for mask in (request.mask, seq.constraint.mask() if seq.constraint is not None else None):
        if mask is not None:
            bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[: len(values)]
            values[bits == 0] = -np.inf
    count = min(count, len(values))
    least = np.partition(values, len(values) - count)[len(values) - count]
    ids = np.flatnonzero((values >= least) & (values > -np.inf))
    ids = ids[np.argsort(-values[ids], kind="stable")][:count]
    ranks = [int(np.count_nonzero(raw > raw[t])) + 1 if params.logprobs is not None else 0 for t in ids]
    return Candidates(ids.tolist(), values[ids].tolist(), raw[ids].tolist(), ranks, top_ids, top_logprobs)


def _copy(constraint: Constraint | None) -> Constraint | None:
    return None if constraint is None else constraint.copy()
