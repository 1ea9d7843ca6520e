"""The queue of sequences that wait for a seat: by priority, then in turns between clients, then by arrival."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from penstock.engine.sequence import Sequence

REMEMBERED = 1024
"""Clients whose last turn is kept though it has passed; beyond that, those are forgotten."""


@dataclass(slots=True)
class Turns:
    """Fair queueing: each client's requests get turns of their own, counted from the turn that is served now.

    So a client with a hundred requests in the queue delays another's first by one, and a client alone is served in
    order. Start-time fair queueing with every request of weight one (Goyal, Vin, Cheng 1996).
    """

    now: int = 0
    last: dict[str, int] = field(default_factory=dict)

    def give(self, client: str) -> int:
        """The turn of the client's next request."""
        turn = max(self.now, self.last.get(client, -1) + 1)
        if len(self.last) >= REMEMBERED:
            self.last = {c: t for c, t in self.last.items() if t >= self.now}
        self.last[client] = turn
        return turn

    def serve(self, turn: int) -> None:
        self.now = max(self.now, turn)


class WaitingQueue:
    """``tokens``: how many tokens wait to be computed. A sequence that was preempted keeps the turn it had."""

    def __init__(self) -> None:
        self.tokens = 0
        self._heap: list[tuple[int, int, int, int, Sequence]] = []
        self._turns: dict[int, Turns] = {}
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._heap)

    def ordered(self) -> list[Sequence]:
        return [seq for *_, seq in sorted(self._heap, key=lambda w: w[:4])]

    def push(self, seq: Sequence) -> None:
        request = seq.request
        if request.turn < 0:
            request.turn = self._turns.setdefault(request.priority, Turns()).give(request.client)
        self._pushed += 1
        self.tokens += len(seq.tokens)
        heapq.heappush(self._heap, (request.priority, request.turn, request.order, self._pushed, seq))

    def first(self) -> Sequence:
        return self._heap[0][-1]

    def pop(self) -> Sequence:
        priority, turn, *_, seq = heapq.heappop(self._heap)
        turns = self._turns.get(priority)
        if turns is not None:
            turns.serve(turn)
        self._left(seq)
        return seq

    def remove(self, seq: Sequence) -> None:
        before = len(self._heap)
        self._heap = [w for w in self._heap if w[-1] is not seq]
        heapq.heapify(self._heap)
        if len(self._heap) < before:
            self._left(seq)

    def _left(self, seq: Sequence) -> None:
        self.tokens -= len(seq.tokens)
        if len(self._turns) > REMEMBERED:
            waiting = {w[0] for w in self._heap}
            self._turns = {p: t for p, t in self._turns.items() if p in waiting}
