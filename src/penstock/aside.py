"""Something made in a thread of its own, while the caller waits for what needs no Python."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, Self, TypeVar

T = TypeVar("T")
TURN = 2e-4
"""Seconds that Python runs in one thread while another waits for it."""


class _Turns:
    """How long turns are is one number of the whole process: the first context shortens it, the last one to be left
    gives it back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._usual = 0.0

    def shorten(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._usual = sys.getswitchinterval()
                sys.setswitchinterval(min(TURN, self._usual))
            self._inside += 1

    def give_back(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                sys.setswitchinterval(self._usual)


_turns = _Turns()


class Aside(Generic[T]):
    """``make`` runs at once; :meth:`result` waits for it. Leaving the context waits, too.

    Within the context threads take shorter turns: a caller that comes back to Python for a moment, between two calls
    that need none, would else wait 5 ms each time.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._pool = ThreadPoolExecutor(1, "penstock-aside")
        self._future = self._pool.submit(make)

    def result(self) -> T:
        """What was made, or what ``make`` raised."""
        return self._future.result()

    def check(self) -> None:
        """Raise what ``make`` raised, if it did so already: nobody wants to wait for the rest first."""
        if self._future.done():
            self._future.result()

    def __enter__(self) -> Self:
        _turns.shorten()
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()
        _turns.give_back()
