"""What is remembered for clients for a while, in memory: each has a share of the room, and beyond it only its own
oldest values are forgotten.

Knows neither what the values are nor how clients are told apart.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.serving.shares import FairShares

_Value = TypeVar("_Value")
_ENTRY_BYTES = 4096  # what a value counts for beside its size


@dataclass(frozen=True, slots=True)
class _Entry(Generic[_Value]):
    """expires_at: seconds since the epoch."""

    name: str
    client: str
    value: _Value
    size: int
    expires_at: float


class FairStore(Generic[_Value]):
    """Values by name. most: bytes of all together; fair: there are several clients, and half is kept for those that
    hold less than a sixteenth."""

    def __init__(self, most: int, *, fair: bool, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._entries: OrderedDict[str, _Entry[_Value]] = OrderedDict()
        self._shares = FairShares(most, reserve=most // 2 if fair else 0, floor=most // 16)

    def put(self, client: str, name: str, value: _Value, *, size: int, expires_at: float) -> bool:
        """Remember a value until then. False: there is no room, for what others hold or for its size."""
        entry = _Entry(name, client, value, size + _ENTRY_BYTES, expires_at)
        if not self._make_room(entry):
            return False
        self._shares.take(client, entry.size)
        self._entries[name] = entry
        return True

    def get(self, name: str) -> _Value | None:
        """None: unknown, or forgotten."""
        entry = self._entries.get(name)
        return None if entry is None or entry.expires_at <= self._clock() else entry.value

    def _make_room(self, entry: _Entry[_Value]) -> bool:
        if self._shares.has_room(entry.client, entry.size):
            return True
        now = self._clock()
        for one in [one for one in self._entries.values() if one.expires_at <= now]:
            self._forget(one)
        for one in [one for one in self._entries.values() if one.client == entry.client]:
            if self._shares.has_room(entry.client, entry.size):
                break
            self._forget(one)
        return self._shares.has_room(entry.client, entry.size)

    def _forget(self, entry: _Entry[_Value]) -> None:
        del self._entries[entry.name]
        self._shares.give_back(entry.client, entry.size)
