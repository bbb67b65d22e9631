"""The open realtime sessions of one gateway, and the ephemeral keys that open further ones.

Owns how many there may be, in all and per key, and that they end when the server shuts down. Knows no socket.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from app.config.settings import RealtimeSettings
from app.errors import Overloaded, Unauthorized

EPHEMERAL_PREFIX = "ek_"
_MOST_KEYS = 10_000
_RETRY_SECONDS = 10.0


class OpenSession(Protocol):
    """A session that can be asked to end."""

    def leave(self) -> None:
        """Take nothing more, finish what was begun, and close with 1001."""


@dataclass(frozen=True, slots=True)
class EphemeralKey:
    """expires_at: Unix time; session: the object that its sessions begin with."""

    value: str
    owner: str
    expires_at: int
    session: Mapping[str, Any]


class RealtimeHub:
    """What realtime sessions share."""

    def __init__(self, settings: RealtimeSettings, clock: Callable[[], float] = time.time) -> None:
        self._settings, self._clock = settings, clock
        self._owners: Counter[str] = Counter()
        self.sessions: set[OpenSession] = set()
        self._keys: OrderedDict[str, EphemeralKey] = OrderedDict()
        self.draining = False

    @property
    def count(self) -> int:
        """Sessions that are open or being opened."""
        return self._owners.total()

    @contextmanager
    def place(self, owner: str) -> Iterator[None]:
        """Count a session until the context is left. Raises Overloaded."""
        most, most_of_key = self._settings.sessions, self._settings.sessions_per_key
        if most_of_key and self._owners[owner] >= most_of_key:
            raise Overloaded(
                f"This key may have {most_of_key} realtime sessions at the same time.", retry_after=_RETRY_SECONDS
            )
        if self.count >= most:
            raise Overloaded(
                f"The server may have {most} realtime sessions at the same time.", retry_after=_RETRY_SECONDS
            )
        self._owners[owner] += 1
        try:
            yield
        finally:
            self._owners[owner] -= 1
            if not self._owners[owner]:
                del self._owners[owner]

    @contextmanager
    def opened(self, session: OpenSession) -> Iterator[None]:
        """Tell the session of a shutdown until the context is left."""
        self.sessions.add(session)
        try:
            if self.draining:
                session.leave()
            yield
        finally:
            self.sessions.discard(session)

    def drain(self) -> None:
        """End all sessions."""
        self.draining = True
        for session in list(self.sessions):
            session.leave()

    def status(self) -> dict[str, Any]:
        """For /health: what is open, and the limits."""
        return {"sessions": self.count, "limits": self._settings.limits}

    # --- Ephemeral keys -----------------------------------------------------------------------------------------------

    def new_key(self, owner: str, seconds: int, session: Mapping[str, Any]) -> EphemeralKey:
        """A key that opens sessions for so long."""
        self._forget()
        key = EphemeralKey(EPHEMERAL_PREFIX + secrets.token_hex(16), owner, int(self._clock()) + seconds, dict(session))
        self._keys[key.value] = key
        while len(self._keys) > _MOST_KEYS:
            self._keys.popitem(last=False)
        return key

    def find_key(self, value: bytes) -> EphemeralKey | None:
        """None: it is no ephemeral key. Raises Unauthorized for one that is unknown or has expired."""
        text = value.decode("latin-1")
        if not text.startswith(EPHEMERAL_PREFIX):
            return None
        self._forget()
        if (key := self._keys.get(text)) is None:
            raise Unauthorized("This ephemeral key is unknown or has expired.", code="invalid_api_key")
        return key

    def _forget(self) -> None:
        now = self._clock()
        for value in [value for value, key in self._keys.items() if key.expires_at <= now]:
            del self._keys[value]
