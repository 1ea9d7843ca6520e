"""uvicorn's h11 protocol with what it lacks: a deadline for headers, a cap on connections, and a way to drop one.

uvicorn alone keeps a connection for ever that sends nothing, or half a header.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from penstock.server.options import ServerOptions

TRANSPORT = "penstock.transport"


def protocol(options: ServerOptions) -> type[H11Protocol]:
    """A protocol class bound to ``options``."""

    refused: set[asyncio.Transport] = set()

    class Bounded(H11Protocol):
        _waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            if len(self.connections) >= options.max_connections:
                if len(refused) >= options.max_connections // 4:  # not even to be told
                    transport.set_protocol(asyncio.Protocol())
                    transport.abort()
                    return
                transport.set_protocol(_Refusal(transport, refused))
                self.loop.call_later(1.0, transport.abort)
                return
            super().connection_made(transport)
            self.app = _with_transport(self.app, transport)
            self._expect_header()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.transport.is_closing():
                return
            if self.cycle is None or self.cycle.response_complete:
                self._expect_header()
            else:
                self._header_came()

        def connection_lost(self, exc: Exception | None) -> None:
            self._header_came()
            super().connection_lost(exc)

        def _expect_header(self) -> None:
            if self._waiting is None:
                self._waiting = self.loop.call_later(options.header_timeout, self._late)

        def _header_came(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

        def _late(self) -> None:
            self._waiting = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.abort()

    return Bounded


class _Refusal(asyncio.Protocol):
    """Waits for the request before it refuses: closing a socket with unread data would reset it, answer and all."""

    def __init__(self, transport: asyncio.Transport, refused: set[asyncio.Transport]) -> None:
        self._transport = transport
        self._refused = refused
        refused.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._refused.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(FULL)
            self._transport.close()


def _with_transport(app: Any, transport: asyncio.Transport) -> ASGIApp:
    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        scope[TRANSPORT] = transport
        await app(scope, receive, send)

    return call


def _full() -> bytes:
    body = (
        b'{"error":{"message":"too many connections; try again later","type":"server_error","param":null,'
        b'"code":"overloaded"}}'
    )
    head = (
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 2\r\n"
        b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    )
    return head + body


FULL = _full()
