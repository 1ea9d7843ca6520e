"""File descriptors: as many connections as there is room for, and one line where there is none left."""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from penstock.server.options import ServerOptions

logger = logging.getLogger(__name__)

RESERVE = 48
"""What models, logs and libraries open."""
MOST_AT_ONCE = 2048
SECONDS = 10.0


def backlog() -> int:
    """How many connections to accept in one go: asyncio looks at none of them before the last."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_AT_ONCE if soft == resource.RLIM_INFINITY else min(MOST_AT_ONCE, max(4, (soft - RESERVE) // 4))


def with_room(options: ServerOptions) -> ServerOptions:
    """``options`` with no more connections than this process may have, once its soft limit is as high as allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    want = 2 * options.max_connections + RESERVE  # as many again are being told that there is no room
    if resource.RLIM_INFINITY not in (soft, hard) and soft < min(want, hard):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(want, hard), hard))
        soft = min(want, hard)
    if soft == resource.RLIM_INFINITY or soft >= want:
        return options
    room = max(4, (soft - RESERVE) // 2)
    logger.warning("only %d connections, for %d open files are allowed: raise it with ulimit -n", room, soft)
    return replace(options, max_connections=room)


class Loop(asyncio.SelectorEventLoop):
    """Does not wait for busy helper threads at its end, and tells of exhausted descriptors once in a while.

    asyncio itself logs a traceback for each of thousands of attempts.
    """

    _told = float("-inf")

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Waits for nobody: a thread may be cutting a long text or loading a model for a client who is gone."""

    def call_exception_handler(self, context: Mapping[str, Any]) -> None:
        if "out of system resource" not in str(context.get("message")):
            super().call_exception_handler(dict(context))
        elif time.monotonic() - self._told > SECONDS:
            self._told = time.monotonic()
            logger.warning("no connection can be taken now: %s", context.get("exception"))
