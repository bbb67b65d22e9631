"""What the routes know of the pool behind them: admission, a running job, and the state of deployments.

The pool implements it with worker processes; another scheduler (a Ray Serve handle, say) can implement it without a
change in the routes. Knows no HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, overload

from app.config.deployments import Deployment
from backends.interface import Capabilities, Event, Request
from backends.live import Feed, LiveEvent, LiveRequest

DeploymentState = Literal["absent", "pulling", "loading", "ready", "busy", "failed", "unloaded"]


@dataclass(frozen=True, slots=True)
class DeploymentStatus:
    """One row of /health's `deployments`; the fields are the documented keys."""

    backend: str
    model: str
    engine: str
    device: str
    dtype: str
    reason: str
    state: DeploymentState
    error: str | None
    fallback: str
    footprint_bytes: int
    jobs_active: int
    queue_depth: int
    live_sessions: int
    real_time_factor: float | None
    last_used: float | None
    detail: dict[str, object]


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """One row of /health's `devices`."""

    id: str
    kind: str
    name: str
    memory_total_bytes: int
    memory_used_bytes: int
    budget_bytes: int


class Reservation(Protocol):
    """A request's slot in the queue of a deployment, and its job once a worker has accepted it.

    deployment: the one that answers, which may be a fallback of the one that was asked; fallback_from: that one's name;
    capabilities: of the model that runs the job, None until then; queue_seconds: from admission to the worker's
    acceptance, loading included; notes: remarks on the answer that stand at the acceptance.
    """

    deployment: Deployment
    fallback_from: str | None
    capabilities: Capabilities | None
    queue_seconds: float
    notes: tuple[str, ...]

    @overload
    async def run(self, request: Request) -> AsyncIterator[Event]: ...

    @overload
    async def run(self, request: LiveRequest) -> AsyncIterator[LiveEvent]: ...

    async def run(self, request: Request | LiveRequest) -> AsyncIterator[Event] | AsyncIterator[LiveEvent]:
        """Wait for a worker to accept the request and return the job's events; iterate once.

        A Failed event is raised as an ApiError instead. Raises ApiError (Overloaded, ModelUnavailable ...). The events
        of a live job end once it has told everything after a LiveEnd.
        """

    def feed(self, feed: Feed) -> None:
        """Give the live job that `run` started what comes next; returns at once and keeps the order.

        What is fed after its end is dropped. Raises Overloaded where too much audio waits to be heard already.
        """

    def hold(self, size: int) -> None:
        """Count a whole answer of `size` bytes among those that its client has not read, until the context is left."""

    async def wait_for_room(self) -> None:
        """Return when the live job has heard enough of what it was fed to take more, or is over."""


class Pool(Protocol):
    """What the routes ask of the workers behind them."""

    async def start(self) -> None: ...

    async def drain(self, seconds: float) -> bool:
        """Refuse new work, let running work end within `seconds`, stop all workers. True if nothing was cut."""

    def admit(
        self, deployment: Deployment, *, owner: str, request_id: str, live: bool = False
    ) -> AbstractAsyncContextManager[Reservation]:
        """Reserve a slot in the queue; live: a place for a live job instead, which waits in no queue.

        Raises Overloaded, Draining, ModelUnavailable, or InvalidRequest where the deployment has no live jobs, at once;
        leaving the context cancels its job.
        """

    async def canary(self, deployment: Deployment, timeout_seconds: float) -> None:
        """Run the backend's canary request; raises ApiError if it fails or takes too long."""

    async def load(self, name: str) -> Capabilities:
        """Load the deployment `name` now, once for all who ask. Raises ApiError, KeyError."""

    async def unload(self, name: str) -> bool:
        """Unload the deployment `name` now; False if it has work, or is not loaded. Raises KeyError."""

    def capabilities(self, deployment: Deployment) -> Capabilities | None:
        """Capabilities reported at the last load, also if the model is unloaded now; None before its first load."""

    def status(self) -> dict[str, DeploymentStatus]: ...

    def devices(self) -> list[DeviceStatus]: ...

    @property
    def draining(self) -> bool: ...
