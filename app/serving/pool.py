"""The pool: every deployment's worker, queue and state behind the protocol that the routes use.

Wires the parts together and owns their start and end. Decides nothing itself: prices are in `pricing`, order in
`admission`, life cycles in `resident`, memory in `arbiter`, a request's way in `tickets`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog

from app.deployments import Deployment
from app.errors import Draining, ServiceUnavailable
from app.metrics import Metrics
from app.serving.arbiter import Arbiter
from app.serving.bell import Bell
from app.serving.dispatch import Dispatcher
from app.serving.policy import Policy
from app.serving.protocol import DeploymentStatus, DeviceStatus, Ticket
from app.serving.resident import SINGLE_THREADED, Machinery, Resident
from app.serving.sources import ModelSources
from app.serving.tickets import PoolTicket
from app.serving.worker import ProcessWorker, Spawn
from app.settings import Settings
from backends.devices import UNLIMITED, DeviceManager, ledger_path

_log = structlog.get_logger("pool")


class WorkerPool:
    """Implements `app.serving.protocol.Pool` with worker processes on this machine."""

    def __init__(
        self,
        settings: Settings,
        deployments: Mapping[str, Deployment],
        metrics: Metrics,
        *,
        policy: Policy | None = None,
        devices: DeviceManager | None = None,
        spawn: Spawn = ProcessWorker.start,
    ) -> None:
        self._settings, self._metrics, self._policy = settings, metrics, policy or Policy()
        self._devices = devices or DeviceManager(settings.devices.memory_budget, ledger=ledger_path())
        self._deployments, self._spawn = dict(deployments), spawn
        self._draining = False
        self._tickets: set[PoolTicket] = set()
        self._left = Bell()  # rings when a ticket is given back
        self._tasks: set[asyncio.Task[Any]] = set()
        self._dispatchers: dict[str, Dispatcher] = {}

    @property
    def draining(self) -> bool:
        return self._draining

    async def start(self) -> None:
        """Returns at once; models load in the background."""
        loop = asyncio.get_running_loop()
        arbiter = Arbiter(self._devices.budget, self._policy, loop.time)
        heavy = [d for d in self._deployments.values() if d.info.name not in SINGLE_THREADED]
        machinery = Machinery(
            self._devices, arbiter, self._metrics, self._policy, self._spawn, loop.time, len(heavy) < 2, self._background
        )
        self._arbiter = arbiter
        for name, deployment in self._deployments.items():
            resident = Resident(deployment, ModelSources(deployment, self._settings.models_dir), machinery)
            self._dispatchers[name] = Dispatcher(resident, self._settings.limits, self._metrics, loop.time)
        self._background(self._watch(), "watch")

    def _background(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._policy.watch)
            for dispatcher in self._dispatchers.values():
                dispatcher.resident.watch(loop.time())

    @asynccontextmanager
    async def admit(self, deployment: Deployment, *, owner: str, request_id: str) -> AsyncIterator[Ticket]:
        """A place in the queue, for as long as the context lasts."""
        if self._draining:
            raise Draining("The server is shutting down.", retry_after=5.0)
        dispatcher = self._dispatchers[deployment.name]
        dispatcher.resident.check()
        dispatcher.check(owner)
        ticket = PoolTicket(dispatcher, owner=owner, request_id=request_id, fallback_from=None)
        self._tickets.add(ticket)
        try:
            yield ticket
        finally:
            self._tickets.discard(ticket)
            self._left.ring()
            if ticket.leave():
                self._metrics.cancelled_total.inc()

    async def canary(self, deployment: Deployment, timeout_seconds: float) -> None:
        """Run the backend's own small request through the queue."""
        try:
            async with asyncio.timeout(timeout_seconds), self.admit(deployment, owner="health", request_id="canary") as ticket:
                assert isinstance(ticket, PoolTicket)  # noqa: S101 # ours
                async for _ in await ticket.run_canary():
                    pass
        except TimeoutError as error:
            raise ServiceUnavailable(f"{deployment.name} gave no answer within {timeout_seconds:g} s.") from error

    async def drain(self, seconds: float) -> bool:
        """Refuse new work, let the rest end, then stop everything."""
        self._draining = True
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while self._tickets and await self._left.wait(max(0.0, end - loop.time())):
            pass
        cut = len(self._tickets)
        for dispatcher in self._dispatchers.values():
            await dispatcher.close(Draining("The server is shutting down.", retry_after=5.0))
        await asyncio.gather(*(dispatcher.resident.close() for dispatcher in self._dispatchers.values()))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return not cut

    def status(self) -> dict[str, DeploymentStatus]:
        return {name: self._row(dispatcher) for name, dispatcher in self._dispatchers.items()}

    def _row(self, dispatcher: Dispatcher) -> DeploymentStatus:
        resident, d = dispatcher.resident, dispatcher.resident.deployment
        real, placement = resident.worker.capabilities if resident.worker else None, resident.placement
        return DeploymentStatus(
            backend=d.info.name,
            model=d.model,
            engine=real.engine if real else d.engine,
            device=real.device if real else placement.device if placement else d.device,
            dtype=real.dtype if real else d.dtype,
            reason=placement.reason if placement else "",
            state=resident.state,
            error=resident.error,
            fallback=d.fallback,
            footprint_bytes=resident.memory_bytes,
            jobs_active=dispatcher.active,
            queue_depth=dispatcher.waiting,
            real_time_factor=dispatcher.pricer.real_time_factor,
            last_used=dispatcher.last_used,
            detail=dict(real.detail) if real else {},
        )

    def devices(self) -> list[DeviceStatus]:
        rows = []
        for device in self._devices.inventory.devices:
            budget = self._devices.budget(device.id)
            used = self._arbiter.used(device.id)
            rows.append(
                DeviceStatus(device.id, device.kind, device.name, device.memory_total, used, 0 if budget == UNLIMITED else budget)
            )
        return rows
