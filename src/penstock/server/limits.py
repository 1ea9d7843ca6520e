"""Bounds on what a client may send: size and time of bodies, and which Host it may call us."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

from starlette.types import Receive

from penstock.server.errors import ClientGone, HttpError
from penstock.server.options import ServerOptions

DISCARD = 4
"""A body that is too long is read on to this many times the limit, so that the client sees the answer."""
DISCARD_SECONDS = 10.0
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_LOOPBACK = re.compile(r"localhost|127(\.[0-9]{1,3}){3}|\[::1\]")


def check_host(headers: Mapping[str, str], options: ServerOptions) -> None:
    """Refuse malformed Host headers and, on loopback, foreign ones: a web page must not reach us by DNS rebinding."""
    host = headers.get("host")
    if host is None:
        return
    match = _HOST.fullmatch(host)
    if match is None:
        raise HttpError(400, "invalid_host", "the Host header is malformed")
    name = match.group(1).lower()
    if not options.loopback or "*" in options.allowed_hosts:
        return
    if not _LOOPBACK.fullmatch(name) and name not in options.allowed_hosts:
        raise HttpError(403, "invalid_host", "this Host is not served here: allow it with --allowed-hosts")


def check_origin(headers: Mapping[str, str], options: ServerOptions) -> None:
    """Refuse calls that a browser makes for a page of another origin, unless that origin is allowed."""
    origin = headers.get("origin")
    if origin is None or "*" in options.allowed_origins or origin in options.allowed_origins:
        return
    if origin.partition("://")[2] != headers.get("host"):
        raise HttpError(403, "invalid_origin", "pages of this origin may not call: allow it with --allowed-origins")


def check_content_type(headers: Mapping[str, str]) -> None:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise HttpError(415, "unsupported_media_type", "the body must be JSON: send 'Content-Type: application/json'")


async def read_body(receive: Receive, headers: Mapping[str, str], options: ServerOptions) -> bytes:
    """The whole body. Raises 415 for a compressed one, 413 beyond ``max_body``, 408 when it takes longer than
    ``body_timeout``."""
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise HttpError(415, "unsupported_media_type", "bodies are not decompressed here: send it without encoding")
    limit = options.max_body
    length = headers.get("content-length", "")
    too_long = length.isdigit() and int(length[:20]) > limit
    try:
        async with asyncio.timeout(options.body_timeout):
            body, more = bytearray(), True
            while more and not too_long:
                part, more = await _part(receive)
                body += part
                too_long = len(body) > limit
    except TimeoutError:
        raise HttpError(
            408, "timeout", f"the body did not come within {options.body_timeout:g} s", headers={"Connection": "close"}
        ) from None
    if too_long:
        del body
        await _discard(receive, more, limit * DISCARD)
        raise HttpError(
            413, "body_too_large", f"the body is larger than the {limit} bytes allowed", headers={"Connection": "close"}
        )
    return bytes(body)


async def _part(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] != "http.request":
        raise ClientGone
    return message.get("body", b""), message.get("more_body", False)


async def _discard(receive: Receive, more: bool, room: int) -> None:
    try:
        async with asyncio.timeout(DISCARD_SECONDS):
            while more and room > 0:
                part, more = await _part(receive)
                room -= len(part)
    except TimeoutError:
        pass
