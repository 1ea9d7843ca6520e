"""Whether an answer has begun to go round in circles, as vLLM's ``repetition_detection`` defines it."""

from __future__ import annotations

from penstock.engine.sequence import Sequence
from penstock.types import RepetitionDetection

STOP_REASON = "repetition_detected"


def repeats(seq: Sequence) -> bool:
    """Whether the answer ends with ``min_count`` times the same pattern, of a length that its request looks for."""
    params, tokens, end = seq.request.params, seq.tokens, len(seq.tokens)
    wish = params.repetition_detection
    if not isinstance(wish, RepetitionDetection) or seq.num_output < params.min_tokens:
        return False
    for size in range(max(1, wish.min_pattern_size), wish.max_pattern_size + 1):
        first = end - size * wish.min_count
        if first < seq.prompt_len:
            return False
        if tokens[end - 1] == tokens[end - 1 - size] and tokens[first : end - size] == tokens[first + size : end]:
            return True
    return False
