"""What spoken answers said: audio ids of the last hour, so that a later turn can refer to one. In memory, bounded."""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from collections.abc import Callable

KEPT_SECONDS = 3600.0
MOST_ANSWERS = 10_000
MOST_CHARACTERS = 32_768  # of one transcript that is kept


class SpokenHistory:
    """audio id -> transcript, oldest first."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._kept: OrderedDict[str, tuple[float, str]] = OrderedDict()

    def expiry(self) -> int:
        """When an answer given now is forgotten, Unix time."""
        return int(self._clock() + KEPT_SECONDS)

    @staticmethod
    def new_id() -> str:
        return f"audio_{uuid.uuid4().hex}"

    def keep(self, name: str, transcript: str) -> None:
        """Remember an answer under its id."""
        self._kept[name] = (self._clock() + KEPT_SECONDS, transcript[:MOST_CHARACTERS])
        self._forget()

    def transcript(self, name: str) -> str | None:
        """None: unknown, or forgotten."""
        self._forget()
        entry = self._kept.get(name)
        return None if entry is None else entry[1]

    def _forget(self) -> None:
        now = self._clock()
        while self._kept and (len(self._kept) > MOST_ANSWERS or next(iter(self._kept.values()))[0] <= now):
            self._kept.popitem(last=False)
