"""What spoken answers said: audio ids of the last hour, so that a later turn can refer to one. In memory, bounded."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

from app.serving.fair_store import FairStore

KEPT_SECONDS = 3600.0
_MOST_BYTES = 64 * 1024 * 1024  # of all transcripts
MOST_CHARACTERS = 32_768  # of one transcript that is kept


class SpokenHistory:
    """audio id -> transcript. fair: there are several clients, and none may make another's be forgotten."""

    def __init__(self, *, fair: bool = False, clock: Callable[[], float] = time.time, most: int = _MOST_BYTES) -> None:
        self._clock = clock
        self._kept = FairStore[str](most, fair=fair, clock=clock)

    def expiry(self) -> int:
        """When an answer given now is forgotten, Unix time."""
        return int(self._clock() + KEPT_SECONDS)

    @staticmethod
    def new_id() -> str:
        return f"audio_{uuid.uuid4().hex}"

    def keep(self, client: str, name: str, transcript: str) -> None:
        """Remember an answer under its id; where there is no room, the client's oldest are forgotten."""
        text = transcript[:MOST_CHARACTERS]
        self._kept.put(client, name, text, size=4 * len(text), expires_at=self._clock() + KEPT_SECONDS)

    def transcript(self, name: str) -> str | None:
        """None: unknown, or forgotten."""
        return self._kept.get(name)
