"""From an exception to what a client reads: one :class:`Problem`, which each dialect writes in its own form."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.errors import ExecutionError, MissingDependencyError, OverloadedError, PenstockError, RequestError

logger = logging.getLogger(__name__)


class HttpError(PenstockError):
    """An error of the HTTP layer itself, with its status."""

    def __init__(
        self, status: int, kind: str, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.http_status = status
        self.http_kind = kind
        self.param = param
        self.headers = dict(headers or {})


def not_found(message: str, kind: str = "not_found", param: str | None = None) -> HttpError:
    return HttpError(404, kind, message, param)


class ClientGone(Exception):  # noqa: N818
    """The client went away; nobody is left to answer."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as data. ``kind`` is penstock's name for it (see ``penstock.errors``)."""

    status: int
    kind: str
    message: str
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


def problem(error: BaseException) -> Problem:
    """What the client is told. Errors that are nobody's mistake but ours are logged and told without detail."""
    if isinstance(error, HttpError):
        return Problem(error.http_status, error.http_kind, str(error), error.param, error.headers)
    if isinstance(error, OverloadedError):
        return Problem(503, error.kind, str(error), headers={"Retry-After": str(max(1, math.ceil(error.retry_after)))})
    if isinstance(error, RequestError):
        return Problem(error.status, error.kind, str(error), error.param)
    if isinstance(error, ExecutionError):
        return Problem(error.status, error.kind, str(error))
    if isinstance(error, asyncio.CancelledError):
        return Problem(503, "shutting_down", "the server is shutting down", headers={"Retry-After": "5"})
    if isinstance(error, MissingDependencyError):
        return Problem(400, error.kind, str(error))
    if isinstance(error, RecursionError):
        return Problem(400, "invalid_request", "the body is nested too deeply")
    logger.error("a request failed", exc_info=error)
    return Problem(500, "internal_error", "internal error; the server's log has the details")
