"""Responses kept in memory for ``previous_response_id``: the newest ones, up to a number and a size."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

MAX_RESPONSES = 4096
MAX_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Kept:
    """``messages``: the conversation, this turn included. ``items``: its input as it was sent."""

    response: dict[str, Any]
    messages: list[dict[str, Any]]
    items: list[dict[str, Any]]
    size: int


class Store:
    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], Kept] = OrderedDict()
        self._bytes = 0

    def put(self, owner: str, kept: Kept) -> None:
        """``owner``: the caller's key, whose own responses alone it can read."""
        key = (owner, kept.response["id"])
        self.drop(*key)
        self._kept[key] = kept
        self._bytes += kept.size
        while len(self._kept) > MAX_RESPONSES or self._bytes > MAX_BYTES:
            _, old = self._kept.popitem(last=False)
            self._bytes -= old.size

    def get(self, owner: str, name: str) -> Kept | None:
        found = self._kept.get((owner, name))
        if found is not None:
            self._kept.move_to_end((owner, name))
        return found

    def drop(self, owner: str, name: str) -> bool:
        found = self._kept.pop((owner, name), None)
        if found is not None:
            self._bytes -= found.size
        return found is not None
