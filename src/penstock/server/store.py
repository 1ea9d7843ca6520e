"""What is kept in memory between requests, for those who made it: the newest, up to a number and a size."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from penstock.server.auth import given_key
from penstock.server.http import Call

T = TypeVar("T")
MAX_KEPT = 4096
MAX_BYTES = 256 << 20


class Store(Generic[T]):
    """``owner``: the caller's key, whose own things alone it can read."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], tuple[T, int]] = OrderedDict()
        self._bytes = 0

    def put(self, owner: str, name: str, kept: T, size: int) -> None:
        self.drop(owner, name)
        self._kept[owner, name] = kept, size
        self._bytes += size
        while len(self._kept) > MAX_KEPT or self._bytes > MAX_BYTES:
            _, (_, old) = self._kept.popitem(last=False)
            self._bytes -= old

    def get(self, owner: str, name: str) -> T | None:
        found = self._kept.get((owner, name))
        if found is None:
            return None
        self._kept.move_to_end((owner, name))
        return found[0]

    def drop(self, owner: str, name: str) -> bool:
        found = self._kept.pop((owner, name), None)
        if found is not None:
            self._bytes -= found[1]
        return found is not None


def owner_of(call: Call) -> str:
    return given_key(call.headers) or "" if call.state.keys else ""
