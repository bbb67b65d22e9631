"""Something has changed: wakes everyone who waits, keeps no history."""

from __future__ import annotations

import asyncio


class Notifier:
    """Waiters must look at the state themselves after each ring."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, timeout_seconds: float | None = None) -> bool:
        """Until the next ring, True; False if the time is over first."""
        event = self._event
        try:
            async with asyncio.timeout(timeout_seconds):
                await event.wait()
        except TimeoutError:
            return False
        return True
