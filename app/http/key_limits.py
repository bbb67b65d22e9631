"""What one key may ask for: requests per minute, and requests at the same time.

Knows no HTTP and no key, only their owners' names; times are seconds on a clock that never goes back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from app.config.settings import KeyLimits, ServerSettings
from app.errors import Overloaded

_MINUTE = 60.0
_BUSY_RETRY = 1.0  # seconds after which a request that was one too many may try again


class KeyUsage:
    """How much each owner has asked for lately."""

    def __init__(self, limits: Mapping[str, KeyLimits], clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._running: dict[str, int] = {}
        self._credit: dict[str, tuple[float, float]] = {}  # requests left, and when that was counted

    @classmethod
    def of(cls, server: ServerSettings) -> KeyUsage:
        """The limits of all configured keys by their names."""
        return cls({key.name: key for key in server.api_keys} | dict(server.keys))

    @contextmanager
    def request(self, owner: str) -> Iterator[None]:
        """Count one request until the context is left. Raises Overloaded with the time after which to try again."""
        limits = self._limits.get(owner)
        if limits is None:
            yield
            return
        running = self._running.get(owner, 0)
        if limits.concurrent and running >= limits.concurrent:
            raise Overloaded(
                f"This key may have {limits.concurrent} requests at the same time.", retry_after=_BUSY_RETRY
            )
        if limits.requests_per_minute:
            self._spend(owner, limits.requests_per_minute)
        self._running[owner] = running + 1
        try:
            yield
        finally:
            self._running[owner] -= 1

    def _spend(self, owner: str, per_minute: int) -> None:
        """A bucket that holds a minute's requests and fills steadily."""
        now = self._clock()
        left, counted = self._credit.get(owner, (float(per_minute), now))
        left = min(float(per_minute), left + (now - counted) * per_minute / _MINUTE)
        if left < 1.0:
            self._credit[owner] = left, now
            raise Overloaded(
                f"This key may send {per_minute} requests per minute.", retry_after=(1.0 - left) * _MINUTE / per_minute
            )
        self._credit[owner] = left - 1.0, now
