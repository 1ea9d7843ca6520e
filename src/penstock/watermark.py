"""A mark that readers do not see and a counter finds (Kirchenbauer et al. 2023, https://arxiv.org/abs/2301.10226).

The token before says which share ``gamma`` of the vocabulary is green ("simple_1", a hash of one token, as TGI has it);
green logits get ``delta`` more before a token is chosen. An answer then holds more green tokens than the ``gamma`` that
chance gives. The lists are those of ``torch.randperm`` on a CPU with the paper's key: its own detector finds the mark.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from penstock.config import WATERMARK_GAMMA
from penstock.errors import RequestError

HASH_KEY = 15485863
MAX_BYTES = 16 << 20


def green_list(previous: int, vocab_size: int, gamma: float = WATERMARK_GAMMA) -> NDArray[np.bool_]:
    """[vocab_size] which tokens are green behind ``previous``: ``int(vocab_size * gamma)`` of them.

    They are the first places of a Fisher-Yates shuffle by the Mersenne twister. Its steps swap place i with place
    t[i] >= i, so what ends up behind the first ``count`` is found by following each place back to where it came from.
    """
    count = int(vocab_size * gamma)
    seed = HASH_KEY * previous & 0xFFFFFFFF
    steps = np.arange(count)
    drawn = np.random.RandomState(seed).randint(0, 1 << 32, count, np.uint64).astype(np.int64)
    target = steps + drawn % (vocab_size - steps)
    came_from = np.arange(vocab_size)
    moved = target > steps
    came_from[target[moved]] = steps[moved]  # the last step that wrote to a place counts
    red = came_from[count:]
    while not np.array_equal(red, further := came_from[red]):
        red = further
    green = np.ones(vocab_size, np.bool_)
    green[red] = False
    return green


class Watermark:
    """What a watermark adds to the logits of one vocabulary. The lists used last are kept, ``MAX_BYTES`` of bits."""

    def __init__(self, vocab_size: int, gamma: float, delta: float) -> None:
        self.vocab_size, self.gamma, self.delta = vocab_size, gamma, delta
        self._most = max(1, MAX_BYTES // (vocab_size // 8 + 1))
        self._lists: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()

    def bias(self, previous: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The green tokens behind ``previous``, and what each gets."""
        bits = self._lists.pop(previous, None)
        if bits is None:
            bits = np.packbits(green_list(previous, self.vocab_size, self.gamma))
            if len(self._lists) >= self._most:
                self._lists.popitem(last=False)
        self._lists[previous] = bits
        ids = np.flatnonzero(np.unpackbits(bits, count=self.vocab_size))
        return ids, np.full(len(ids), self.delta, np.float32)


@dataclass(frozen=True, slots=True)
class Detection:
    """``green`` of ``scored`` tokens are green. ``z``: by how many standard deviations that is more than chance gives
    (above 4: marked, wrong once in 30,000 unmarked texts). ``p_value``: how often chance gives as many."""

    scored: int
    green: int
    z: float
    p_value: float


def detect(
    token_ids: Sequence[int], vocab_size: int, gamma: float = WATERMARK_GAMMA, *, distinct: bool = True
) -> Detection:
    """How surely ``token_ids`` were made with a watermark of share ``gamma``; all but the first are scored.

    ``vocab_size`` is the width of the model's logits. ``distinct``: pairs of tokens that come again count once, for
    repetition proves nothing. Raises ``RequestError`` for less than two tokens, and values out of range.
    """
    if not 0 < gamma < 1 or int(vocab_size * gamma) < 1:
        raise RequestError(f"gamma must be a share between 0 and 1 of {vocab_size} tokens, got {gamma}", "gamma")
    tokens = [int(t) for t in token_ids]
    if len(tokens) < 2 or min(tokens) < 0 or max(tokens) >= vocab_size:
        raise RequestError(f"token_ids must be two or more token ids below {vocab_size}", "token_ids")
    pairs = list(pairwise(tokens))
    if distinct:
        pairs = list(dict.fromkeys(pairs))
    lists = {previous: green_list(previous, vocab_size, gamma) for previous in {p for p, _ in pairs}}
    green = sum(bool(lists[previous][token]) for previous, token in pairs)
    z = (green - gamma * len(pairs)) / math.sqrt(len(pairs) * gamma * (1 - gamma))
    return Detection(len(pairs), green, z, 0.5 * math.erfc(z / math.sqrt(2)))
