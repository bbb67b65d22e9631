"""A pool and a media pool with nothing behind them: what is left of a request is the gateway's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.config.deployments import Deployment
from app.media.pool import Decoded
from app.serving.interfaces import DeploymentStatus, DeviceStatus, Reservation
from backends.interface import Capabilities, Done
from backends.live import Feed

_NOTHING = Capabilities("none", "cpu", "float32")


@dataclass
class _NoReservation:
    deployment: Deployment
    fallback_from: str | None = None
    capabilities: Capabilities | None = field(default_factory=lambda: _NOTHING)
    queue_seconds: float = 0.0
    notes: tuple[str, ...] = ()

    async def run(self, request: Any) -> Any:
        return _done()

    def feed(self, feed: Feed) -> None:
        """Nobody hears it."""

    def hold(self, size: int) -> None:
        """There is room for any answer."""

    async def wait_for_room(self) -> None:
        return None


async def _done() -> AsyncIterator[Done]:
    yield Done("")


class NoPool:
    """Answers every request at once with an empty text."""

    draining = False

    async def start(self) -> None:
        return None

    async def drain(self, seconds: float) -> bool:
        return True

    @asynccontextmanager
    async def admit(
        self, deployment: Deployment, *, owner: str, request_id: str, live: bool = False
    ) -> AsyncIterator[Reservation]:
        yield _NoReservation(deployment)

    async def canary(self, deployment: Deployment, timeout_seconds: float) -> None:
        return None

    async def load(self, name: str) -> Capabilities:
        return _NOTHING

    async def unload(self, name: str) -> bool:
        return True

    def capabilities(self, deployment: Deployment) -> Capabilities | None:
        return _NOTHING

    def status(self) -> dict[str, DeploymentStatus]:
        return {}

    def devices(self) -> list[DeviceStatus]:
        return []


class NoMedia:
    """Takes every upload for a second of silence per byte and decodes none."""

    async def start(self) -> None:
        return None

    async def close(self) -> None:
        return None

    async def decode(
        self, data: bytes | memoryview, *, rate: int, param: str = "file", max_seconds: float | None = None
    ) -> Decoded:
        return Decoded(np.zeros(0, np.float32), float(len(data)), rate, 1, "wav")
