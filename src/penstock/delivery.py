"""From the engine's thread to event loops: outputs are handed over together, and not more often than anybody can see.

    engine's thread                       event loop
    step → Mailbox.post ──(one wake-up)──► Mailbox._open → Inbox.put → whoever waits in Inbox.get

A step of a small model takes a millisecond and gives each of many streams a token. To wake the loop for every step, and
every stream for every token, costs more than the step. So outputs wait in the mailbox until ``SECONDS`` have passed
since it was last emptied; the first and the last of a request never do.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from penstock.types import RequestOutput

logger = logging.getLogger(__name__)

SECONDS = 0.01
"""A hundred times a second: faster than a screen shows."""


class Inbox:
    """What has come of one request and was not read. One reader, on the loop that it was made on.

    ``since``: when the request came, on the monotonic clock. ``started``: whether anything was sent.
    """

    __slots__ = ("_items", "_loop", "_waiter", "mailbox", "since", "started")

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self.since = time.monotonic()
        self.started = False
        self._loop = mailbox.loop
        self._items: deque[RequestOutput | BaseException] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, item: RequestOutput | BaseException) -> None:
        self._items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> RequestOutput | BaseException:
        while not self._items:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._items.popleft()

    @property
    def more(self) -> bool:
        """Whether :meth:`get` gives another output at once, and no error."""
        first = self._items[0] if self._items else None
        return isinstance(first, RequestOutput) and first.error is None


class Mailbox:
    """The outputs on their way to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._lock = threading.Lock()
        self._items: list[tuple[Inbox, RequestOutput | BaseException]] = []
        self._called = self._urgent = False
        self._timer: asyncio.TimerHandle | None = None
        self._emptied = loop.time() - SECONDS

    def post(self, items: Sequence[tuple[Inbox, RequestOutput | BaseException]], urgent: bool) -> None:
        """From any thread. ``urgent``: somebody waits for the first or the last of an answer."""
        with self._lock:
            self._items += items
            call = not self._called or (urgent and not self._urgent)
            self._called, self._urgent = True, self._urgent or urgent
        if call:
            _call(self.loop, self._open)

    def _open(self) -> None:
        if not self._items:
            return
        rest = self._emptied + SECONDS - self.loop.time()
        if self._urgent or rest <= 0:
            self._empty()
        elif self._timer is None:
            self._timer = self.loop.call_later(rest, self._empty)

    def _empty(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        with self._lock:
            items, self._items = self._items, []
            self._called = self._urgent = False
        self._emptied = self.loop.time()
        for inbox, item in items:
            inbox.put(item)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: Any) -> None:
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        logger.debug("an event loop was closed with requests under way")
