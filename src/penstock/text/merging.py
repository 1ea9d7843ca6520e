"""Byte-pair merging by rank, in O(n log n) however a text is made.

Both rank files (tiktoken) and SentencePiece's BPE (as llama.cpp runs it over scores) are this: of all neighbours whose
joined text is in the vocabulary, join those of the lowest rank, the leftmost first, until none is left.
Source: Sennrich, Haddow, Birch 2016, "Neural Machine Translation of Rare Words with Subword Units", algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from typing import AnyStr

# A queue entry is one number, rank << 40 | position: a quarter of a tuple's memory, and quicker to compare.
POSITION_BITS = 40
POSITION_MASK = (1 << POSITION_BITS) - 1


def merge(parts: list[AnyStr], ranks: Mapping[AnyStr, int]) -> list[AnyStr]:
    """Join neighbours in ``parts``; the lower a joined text's rank, the sooner. Ranks may repeat, and are >= 0."""
    get = ranks.get
    count = len(parts)
    parts = list(parts)
    # after[i], before[i]: the neighbours of the part that begins at i. pair[i]: rank of i joined with after[i], or -1.
    after = list(range(1, count + 1))
    before = list(range(-1, count - 1))
    pair = [-1] * count
    queue: list[int] = []
    for i in range(count - 1):
        if (rank := get(parts[i] + parts[i + 1])) is not None:
            pair[i] = rank
            queue.append(rank << POSITION_BITS | i)
    heapify(queue)
    while queue:
        entry = heappop(queue)
        i = entry & POSITION_MASK
        if pair[i] != entry >> POSITION_BITS:
            continue  # an entry of a pair that is no more
        gone = after[i]
        parts[i] += parts[gone]
        pair[gone] = -1
        following = after[i] = after[gone]
        after[gone] = -1
        pair[i] = -1
        if following < count:
            before[following] = i
            if (rank := get(parts[i] + parts[following])) is not None:
                pair[i] = rank
                heappush(queue, rank << POSITION_BITS | i)
        previous = before[i]
        if previous >= 0:
            rank = get(parts[previous] + parts[i])
            if rank is None:
                pair[previous] = -1
            else:
                pair[previous] = rank
                heappush(queue, rank << POSITION_BITS | previous)
    return [part for part, place in zip(parts, after) if place >= 0]
