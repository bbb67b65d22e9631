"""Requests for which a model is loaded before they are in its queue.

Owns the one load that all of them wait for, and ends it when nobody needs it any more. While somebody arrives, nobody
evicts the model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from app.errors import ApiError, WorkerLost
from app.serving.supervisor import ModelSupervisor
from app.serving.worker import Worker


class Arrivals:
    """count: requests that asked for the model and are not in the queue yet; changed: called when that changes."""

    def __init__(self, supervisor: ModelSupervisor, changed: Callable[[], None]) -> None:
        self._supervisor, self._changed = supervisor, changed
        self.count = 0
        self._load: asyncio.Task[Worker] | None = None
        self._closed: ApiError | None = None

    async def prepare(self) -> Worker:
        """Load the model for a request that comes, once for all that do. Raises ApiError; call `arrived` afterwards."""
        self.count += 1
        self._changed()
        if self._load is None or self._load.done():
            self._load = asyncio.create_task(self._supervisor.ensure(), name=f"load of {self._supervisor.name}")
        loading = self._load
        await asyncio.wait({loading})  # which goes on if this client leaves
        if loading.cancelled():
            raise self._closed or WorkerLost(f"The load of {self._supervisor.name} was stopped.")
        return loading.result()

    def arrived(self) -> None:
        """Count a prepared request no longer: it is queued, went to a fallback, or has left."""
        self.count -= 1
        self._changed()
        self._supervisor.queue_emptied()
        if self._load is not None and self._supervisor.load_is_pointless:
            self._load.cancel()

    async def close(self, error: ApiError) -> None:
        """End the load; those who wait for it get `error`."""
        self._closed = error
        if self._load is not None:
            self._load.cancel()
            await asyncio.gather(self._load, return_exceptions=True)
