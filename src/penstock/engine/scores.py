"""Log probabilities of a step for one answer: those that the sampler gave, and those of tokens that a request names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penstock.engine.sequence import TokenScore
from penstock.types import F32, StepOutput


def score(output: StepOutput, i: int, token: int, wanted: int) -> TokenScore:
    """Of sampling entry ``i``, with the ``wanted`` best."""
    assert output.logprobs is not None
    assert output.ranks is not None
    top_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()
    if wanted and output.top_ids is not None and output.top_logprobs is not None:
        top_ids = tuple(output.top_ids[i, :wanted].tolist())
        top_logprobs = tuple(output.top_logprobs[i, :wanted].tolist())
    return TokenScore(token, float(output.logprobs[i]), int(output.ranks[i]), top_ids, top_logprobs)


def score_named(output: StepOutput, i: int, token: int, row: int, ids: Sequence[int]) -> TokenScore:
    """Of entry ``i``, whose logits are ``row``, with those of the tokens ``ids``, by the raw distribution."""
    assert output.logits is not None
    chosen = score(output, i, token, 0)
    logits: F32 = output.logits[row]
    x = logits.astype(np.float64)
    top = x.max()
    values = x[list(ids)] - (top + np.log(np.exp(x - top).sum()))
    ranks = tuple(int(np.count_nonzero(logits > logits[each])) + 1 for each in ids)
    return TokenScore(token, chosen.logprob, chosen.rank, tuple(ids), tuple(values.tolist()), ranks)
