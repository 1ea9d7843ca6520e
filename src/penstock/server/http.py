"""One HTTP request as a value, and its answer as another: what handlers see instead of ASGI.

    async def handler(call: Call) -> Reply | Stream

The edge (``edge.py``) reads the body, watches the connection, and turns errors into the dialect's form.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.types import Scope

from penstock.server.errors import Problem

if TYPE_CHECKING:
    from penstock.server.state import State

JSON = "application/json"
ErrorForm = Callable[[Problem], tuple[int, Any]]
"""How a dialect writes a problem: (status, body)."""
_encoder = msgspec.json.Encoder()
encode: Callable[[Any], bytes] = _encoder.encode


@dataclass(slots=True)
class Call:
    """A request whose body has been read. ``headers`` in lower case; ``path_params`` from the route.

    ``error``: set by a handler that serves several dialects, when it knows which one's errors the client reads.
    """

    state: State
    scope: Scope
    body: bytes
    request_id: str
    headers: Mapping[str, str]
    path_params: Mapping[str, str]
    query: Mapping[str, str]
    error: ErrorForm | None = None


@dataclass(slots=True)
class Reply:
    """A whole answer."""

    body: bytes = b""
    status: int = 200
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Stream:
    """An answer in pieces.

    ``failed`` makes the piece that tells a client of an error after the start. ``close`` frees what the answer holds;
    it is always called, and does nothing the second time.
    """

    pieces: AsyncIterator[bytes]
    failed: Callable[[Problem], bytes]
    close: Callable[[], None]
    content_type: str = "text/event-stream; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)


def reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    """``value`` as JSON."""
    return Reply(encode(value), status, JSON, headers or {})


Handler = Callable[[Call], Awaitable[Reply | Stream]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A route of a dialect.

    ``public``: answered without a key (liveness only). ``raw``: any content type. ``body``: what the body is read as,
    for the description of the API. ``always``: answered also when the server is full or drains, and not counted as a
    request under way. ``admin``: wants an administrator's key, and is shut where there is none.
    ``quiet``: polled, and in the access log only when it fails.
    """

    method: str
    path: str
    handler: Handler
    public: bool = False
    raw: bool = False
    body: type[msgspec.Struct] | None = None
    admin: bool = False
    quiet: bool = False
    always: bool = False


@dataclass(frozen=True, slots=True)
class Dialect:
    """Routes, and how their errors are written. ``prefixes``: of paths that get them though they are not there."""

    name: str
    endpoints: tuple[Endpoint, ...]
    error: ErrorForm
    prefixes: tuple[str, ...] = ()
    id_header: str = "X-Request-Id"  # where its clients look for a request's id
