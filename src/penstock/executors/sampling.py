"""The plain sampler in numpy: what a row of logits and a request's wishes become. Executors that sample agree with it.

For one entry of a :class:`SamplingBatch`, with ``x`` its row of float32 logits; every step rounds to float32:

    1. x[t] += bias; tokens whose mask bit is 0 become -inf
    2. repetition r over tokens in prompt or output: x < 0 ? x * r : x / r; then over tokens put out c > 0 times:
       x -= presence; x -= frequency * c
    3. temperature < 1e-5: the largest x, the lowest id among equals. Otherwise x /= temperature
    4. candidates are tokens with finite x. Where one of the following cuts, they are sorted by (x descending, id
       ascending), else they stand by id. w = exp(float64(x) - max x)
       top_k   the first k
       top_p   the smallest prefix whose mass is at least p times the mass of what top_k left
       min_p   those with w >= min_p
       typical_p  of what is left, with m the mean of x - max x weighted by w: those with the least |x - max x - m| (a
               token's surprise less the entropy, Meister et al. 2022), as few as have at least typical_p of the mass,
               and all that are as near as the last of them
    5. the first candidate whose cumulative mass is above u * mass of all left, u = `uniform(seed, draw)`

Sums run in float64 in candidates' order. Log probabilities and ranks are of the raw row, before step 1: log-softmax in
float64; rank 1 + the number of tokens with a greater logit; the best n by (logit descending, id ascending). An entry is
``invalid`` (token -1) where the raw row has NaN or +inf, or nothing finite is left after step 2. ``num_logprobs`` -1
asks for none; 0 for the chosen token's alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.types import F32, I32, SamplingBatch, StepOutput

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
GREEDY = 1e-5
MASK64 = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def uniform(seed: int, draw: int) -> float:
    """The ``draw``-th number in [0, 1) of ``seed``: splitmix64 (Steele, Lea, Flood 2014), its upper 53 bits."""
    z = (seed + (draw + 1) * GOLDEN) & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


class _Scores:
    """Log probabilities and ranks, as `StepOutput` has them, for ``wanted`` best tokens."""

    def __init__(self, entries: int, wanted: int) -> None:
        self.logprobs = np.full(entries, -np.inf, np.float32)
        self.ranks = np.zeros(entries, np.int32)
        self.top_ids = np.full((entries, wanted), -1, np.int32)
        self.top_logprobs = np.full((entries, wanted), -np.inf, np.float32)


def sample(logits: F32, batch: SamplingBatch) -> StepOutput:
    """Tokens, log probabilities and ranks for every entry; ``logits`` [R, V] float32 is not changed."""
    if batch.ready is not None:
        batch.ready()
    entries = len(batch.row)
    wanted = int(batch.num_logprobs.max(initial=-1))
    out = StepOutput(np.full(entries, -1, np.int32), np.zeros(entries, np.uint8))
    scores = _Scores(entries, max(wanted, 0))
    if wanted >= 0:
        out.logprobs, out.ranks = scores.logprobs, scores.ranks
        out.top_ids, out.top_logprobs = scores.top_ids, scores.top_logprobs
    for i in range(entries):
        raw = logits[batch.row[i]]
        x = processed(raw, batch, i)
        if np.isnan(raw).any() or np.isposinf(raw).any() or not np.isfinite(x).any():
            out.invalid[i] = 1
            continue
        out.token_ids[i] = token = int(batch.target[i]) if batch.target[i] >= 0 else choose(x, batch, i)
        if batch.num_logprobs[i] >= 0:
            _score(raw, token, int(batch.num_logprobs[i]), i, scores)
    return out


def processed(raw: F32, batch: SamplingBatch, i: int) -> F32:
    """Steps 1 and 2 for entry ``i``."""
    x = raw.copy()
    ids, values = _span(batch.bias_start, i, batch.bias_ids, batch.bias_values)
    np.add.at(x, ids, values)
    if batch.mask_row[i] >= 0:
        words = batch.masks[batch.mask_row[i]]
        token = np.arange(x.shape[0])
        x[(words[token // 32] >> (token % 32).astype(np.uint32)) & 1 == 0] = -np.inf
    ids, counts, prompt = _span(batch.history_start, i, batch.history_ids, batch.history_counts, batch.history_prompt)
    repetition, presence, frequency = batch.repetition[i], batch.presence[i], batch.frequency[i]
    if repetition != 1:
        seen = ids[(counts > 0) | (prompt != 0)]
        x[seen] = np.where(x[seen] < 0, x[seen] * repetition, x[seen] / repetition)
    if presence != 0 or frequency != 0:
        used, count = ids[counts > 0], counts[counts > 0]
        x[used] = x[used] - presence
        x[used] = x[used] - frequency * count.astype(np.float32)
    return x


def choose(x: F32, batch: SamplingBatch, i: int) -> int:
    """Steps 3 to 5 for entry ``i``: one token id."""
    if batch.temperature[i] < GREEDY:
        return int(np.argmax(np.where(np.isnan(x), -np.inf, x)))
    x = x / batch.temperature[i]
    ids: I64 = np.flatnonzero(np.isfinite(x))
    top_k, top_p, min_p = int(batch.top_k[i]), float(batch.top_p[i]), float(batch.min_p[i])
    top_k = 0 if top_k >= len(x) else top_k  # cuts nothing
    typical_p = float(batch.typical_p[i])
    if top_k > 0 or top_p < 1 or min_p > 0 or typical_p < 1:
        ids = ids[np.argsort(-x[ids], kind="stable")]
        if top_k > 0:
            ids = ids[:top_k]
    weights: F64 = np.exp(x[ids].astype(np.float64) - np.float64(x[ids].max()))
    if top_p < 1:
        mass = np.cumsum(weights)
        keep = int(np.argmax(mass >= top_p * mass[-1])) + 1
        ids, weights = ids[:keep], weights[:keep]
    if min_p > 0:
        keep = int(np.count_nonzero(weights >= min_p))
        ids, weights = ids[:keep], weights[:keep]
    if typical_p < 1:
        near = typical(x[ids], weights, typical_p)
        ids, weights = ids[near], weights[near]
    mass = np.cumsum(weights)
    above = np.flatnonzero(mass > uniform(int(batch.seed[i]), int(batch.draw[i])) * mass[-1])
    return int(ids[above[0] if len(above) else -1])


def typical(x: F32, weights: F64, p: float) -> NDArray[np.bool_]:
    """Which of the candidates [N] ``typical_p`` keeps; x[0] is the largest."""
    z = x.astype(np.float64) - np.float64(x[0])
    away = np.abs(z - (weights * z).sum() / weights.sum())
    order = np.argsort(away, kind="stable")
    mass = np.cumsum(weights[order])
    kept: NDArray[np.bool_] = away <= away[order[np.argmax(mass >= p * mass[-1])]]
    return kept


def _score(raw: F32, token: int, n: int, i: int, out: _Scores) -> None:
    x = raw.astype(np.float64)
    top = x.max()
    logprobs = x - (top + np.log(np.exp(x - top).sum()))
    out.logprobs[i] = logprobs[token]
    out.ranks[i] = 1 + np.count_nonzero(raw > raw[token])
    best = np.argsort(-raw, kind="stable")[:n]
    out.top_ids[i, : len(best)] = best
    out.top_logprobs[i, : len(best)] = logprobs[best]


def _span(start: I32, i: int, *arrays: NDArray[Any]) -> list[NDArray[Any]]:
    return [array[start[i] : start[i + 1]] for array in arrays]
