"""Server-sent events from bytes: the parts of a chunk that stay the same are encoded once a stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.server.http import encode

DONE = b"data: [DONE]\n\n"
_HOLE = "\x00hole\x00"


def event(value: Any) -> bytes:
    """``value`` as the JSON of one event."""
    return b"data: " + encode(value) + b"\n\n"


def named_event(name: str, value: Any) -> bytes:
    return b"event: " + name.encode() + b"\n" + event(value)


class Chunk:
    """An event with holes: ``Chunk({"a": HOLE, "b": 1}, 1)(encode("x"))``. Holes are filled with JSON, in order."""

    def __init__(self, value: Mapping[str, Any]) -> None:
        self._parts = (b"data: " + encode(value) + b"\n\n").split(encode(_HOLE))

    def __call__(self, *holes: bytes) -> bytes:
        out = [self._parts[0]]
        for hole, part in zip(holes, self._parts[1:], strict=True):
            out += (hole, part)
        return b"".join(out)


HOLE = _HOLE
