"""The open realtime sessions of one gateway: how many there may be, in all and per key, and that they end when the
server shuts down.

Knows no socket. The ephemeral keys that open sessions are `ephemeral_keys.py`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol

from app.config.settings import RealtimeSettings
from app.errors import Overloaded
from app.realtime.ephemeral_keys import EphemeralKeys
from app.serving.shares import FairGate, FairShares

_RETRY_SECONDS = 10.0


class OpenSession(Protocol):
    """A session that can be asked to end."""

    def leave(self) -> None:
        """Take nothing more, finish what was begun, and close with 1001."""


class RealtimeHub:
    """What realtime sessions share. fair: there are several owners, and none may take all sessions."""

    def __init__(self, settings: RealtimeSettings, *, fair: bool) -> None:
        self._settings = settings
        self._places = FairShares(0)
        self._places.fit(settings.sessions, fair=fair)
        self.keys = EphemeralKeys(fair=fair)
        self._turns = FairGate(1, waiting=FairShares(settings.sessions))
        self.sessions: set[OpenSession] = set()
        self.draining = False

    @property
    def count(self) -> int:
        """Sessions that are open or being opened."""
        return self._places.held

    @contextmanager
    def place(self, owner: str) -> Iterator[None]:
        """Count a session until the context is left. Raises Overloaded."""
        most, most_of_key = self._settings.sessions, self._settings.sessions_per_key
        own = self._places.held_by(owner)
        if most_of_key and own >= most_of_key:
            raise _full(f"This key may have {most_of_key} realtime sessions at the same time.")
        if self.count >= most:
            raise _full(f"The server may have {most} realtime sessions at the same time.")
        if not self._places.has_room(owner):
            raise _full(f"This client has {own} realtime sessions, and the rest are kept for others.")
        self._places.take(owner)
        try:
            yield
        finally:
            self._places.give_back(owner)

    @asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        """The time to take one event of a client's. It is left only after everything else has had its turn, so that
        however many sessions send however much, whoever else uses the server waits for one event at most."""
        async with self._turns.slot(owner):
            yield
            await asyncio.sleep(0)

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


def _full(text: str) -> Overloaded:
    return Overloaded(text, retry_after=_RETRY_SECONDS)
