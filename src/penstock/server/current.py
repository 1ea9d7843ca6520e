"""Whose request the running code works for: told from the edge to the engine and to log lines without passing it on."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from penstock.server.tracing import Trace


@dataclass(slots=True)
class Current:
    """``began``: when the request's head was read, monotonic seconds.

    ``client``: a key's digest or an address. ``using``: the models that it has found, kept till its end. ``trace``:
    where its spans belong."""

    request_id: str
    client: str = ""
    using: list[str] = field(default_factory=list)
    trace: Trace | None = None
    began: float = field(default_factory=time.monotonic)


CURRENT: ContextVar[Current | None] = ContextVar("penstock_request", default=None)
"""Each task has its own value; None outside of requests."""
