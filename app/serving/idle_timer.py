"""The time that an idle model stays loaded. Knows no model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class IdleTimer:
    """Calls `expired` when the model was idle for `seconds` on end; below 0: never."""

    def __init__(self, seconds: float, is_idle: Callable[[], bool], expired: Callable[[], None]) -> None:
        self.seconds, self._is_idle, self._expired = seconds, is_idle, expired
        self._timer: asyncio.TimerHandle | None = None

    def restart(self) -> None:
        """Count from now on, if the model is idle."""
        self.stop()
        if self.seconds >= 0 and self._is_idle():
            self._timer = asyncio.get_running_loop().call_later(self.seconds, self._call)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _call(self) -> None:
        if self._is_idle():
            self._expired()
