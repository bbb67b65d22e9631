"""Broadcast notification without state."""

from __future__ import annotations

import asyncio


class Notifier:
    """Wakes everyone who waits; waiters look at the state themselves afterwards."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait for the next notification. Returns False if the time is over first."""
        event = self._event
        try:
            async with asyncio.timeout(timeout_seconds):
                await event.wait()
        except TimeoutError:
            return False
        return True
