"""The pool: every deployment's worker, queue and state behind the protocol that the routes use.

Wires the parts together and owns their start and end. Decides nothing itself: who is let in is in `admission`, prices
are in `pricing`, order in `queue`, life cycles in `supervisor`, memory in `memory`, one request in `reservation`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog

from app.booleans import is_true
from app.config.deployments import Deployment
from app.config.settings import Settings
from app.errors import ApiError, Draining, ServiceUnavailable
from app.metrics import Metrics
from app.serving.admission import Admission
from app.serving.background import BackgroundTasks
from app.serving.dispatch import Dispatcher
from app.serving.downloads import Puller
from app.serving.interfaces import DeploymentStatus, DeviceStatus, Reservation
from app.serving.loading import PoolServices, uses_one_thread
from app.serving.memory import MemoryManager
from app.serving.policy import Policy
from app.serving.probing import probe_devices
from app.serving.requirements import ModelRequirements, name_alternatives
from app.serving.reservation import PoolReservation
from app.serving.status import deployment_status, device_status
from app.serving.supervisor import ModelSupervisor
from app.serving.unread import UnreadAnswers
from app.serving.worker import ProcessWorker, Spawn
from backends.devices import DeviceManager, footprint_cache_path
from backends.interface import Capabilities

_log = structlog.get_logger("pool")


class WorkerPool:
    """Implements `app.serving.interfaces.Pool` with worker processes on this machine.

    dispatchers: queue and jobs of each deployment by its name, from `start` on.
    """

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
        """devices: decided by the caller and not looked for; spawn: how workers are made. Both serve tests."""
        self._settings, self._metrics = settings, metrics
        self._policy = policy or Policy(load_stall=settings.limits.load_timeout)
        self._looks_for_devices = devices is None
        self._devices = devices or DeviceManager(settings.devices.memory_budget, footprint_cache=footprint_cache_path())
        self._deployments, self._spawn = dict(deployments), spawn
        self._fair = settings.server.several_owners
        self._unread = UnreadAnswers(settings.limits.unread_bytes, fair=self._fair)
        self._tasks = BackgroundTasks()
        self.dispatchers: dict[str, Dispatcher] = {}
        self._admission = Admission(self.dispatchers, metrics)
        self._requirements: dict[str, ModelRequirements] = {}
        self._memory_manager: MemoryManager | None = None

    @property
    def draining(self) -> bool:
        return self._admission.draining

    # --- Start --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the background work and return: probing devices, fetching weights, loading models."""
        loop = asyncio.get_running_loop()
        self._memory_manager = MemoryManager(self._devices.budget, self._policy, loop.time)
        known = asyncio.Event()
        services = PoolServices(
            devices=self._devices,
            memory_manager=self._memory_manager,
            metrics=self._metrics,
            policy=self._policy,
            spawn=self._spawn,
            clock=loop.time,
            one_heavy=self._one_heavy,
            inventory_known=known,
            background=self._tasks.start,
        )
        for name, deployment in self._deployments.items():
            requirements = self._requirements_of(deployment)
            supervisor = self._supervisor_of(deployment, requirements, services)
            self._requirements[name] = requirements
            self.dispatchers[name] = Dispatcher(
                supervisor, self._settings.limits, self._metrics, loop.time, unread=self._unread, fair=self._fair
            )
        name_alternatives(self._requirements)
        self._tasks.start(self._look_for_devices(known), "device probe")
        self._tasks.start(self._watch(), "watch")
        self._prepare_models()

    def _requirements_of(self, deployment: Deployment) -> ModelRequirements:
        clock = asyncio.get_running_loop().time
        return ModelRequirements(deployment, self._settings.models_dir, clock, self._policy.availability)

    def _supervisor_of(
        self, deployment: Deployment, requirements: ModelRequirements, services: PoolServices
    ) -> ModelSupervisor:
        return ModelSupervisor(deployment, requirements, services)

    def _one_heavy(self) -> bool:
        heavy = [name for name, d in self._deployments.items() if not uses_one_thread(d, self._requirements[name])]
        return sum(self._requirements[name].state != "absent" for name in heavy) < 2

    async def _look_for_devices(self, known: asyncio.Event) -> None:
        for python in sorted({d.python for d in self._deployments.values()} | {""}) if self._looks_for_devices else ():
            try:
                inventory = await probe_devices(python)
            except (OSError, ValueError, TimeoutError) as error:
                _log.warning("pool.device_probe_failed", python=python or "own", error=str(error))
                continue
            self._devices.learn(inventory, python)
            _log.info(
                "pool.devices", python=python or "own", devices=[d.id for d in inventory.devices], cores=inventory.cores
            )
        known.set()

    def _prepare_models(self) -> None:
        """Begin to fetch missing weights and to load what is to be loaded at start."""
        offline = self._settings.offline or is_true(os.environ.get("HF_HUB_OFFLINE"))
        puller = Puller(self._settings.models_dir)
        for name, deployment in self._deployments.items():
            requirements = self._requirements[name]

            async def weights_arrived(deployment: Deployment = deployment) -> None:
                if deployment.preload:
                    await self._preload(deployment.name)

            if (
                deployment.auto_pull
                and not offline
                and not requirements.missing_libraries()
                and requirements.weight_problems()
            ):
                self._tasks.start(puller.keep_pulling(name, requirements, weights_arrived), f"pull of {name}")
            elif deployment.preload:
                self._tasks.start(self._preload(name), f"preload of {name}")

    async def _preload(self, name: str) -> None:
        try:
            await self.load(name)
        except ApiError as error:
            _log.error("pool.preload_failed", deployment=name, error=error.message)

    async def _watch(self) -> None:
        """Watch all workers. A round that was late itself (the machine slept) says nothing about them."""
        clock = asyncio.get_running_loop().time
        while True:
            before = clock()
            await asyncio.sleep(self._policy.watch)
            if clock() - before > 2 * self._policy.watch + self._policy.hang / 2:
                continue
            for dispatcher in self.dispatchers.values():
                dispatcher.supervisor.watch(clock())

    # --- Requests -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def admit(
        self, deployment: Deployment, *, owner: str, request_id: str, live: bool = False
    ) -> AsyncIterator[Reservation]:
        """Reserve a slot in the queue, or a place for a live job, for as long as the context lasts."""
        reservation = await self._admission.reserve(deployment, owner, request_id, live=live)
        try:
            yield reservation
        finally:
            self._admission.release(reservation)

    async def canary(self, deployment: Deployment, timeout_seconds: float) -> None:
        """Run the backend's own small request through the queue."""
        dispatcher = self.dispatchers[deployment.name]
        dispatcher.supervisor.check()
        reservation = PoolReservation(dispatcher, owner="health", request_id="canary", fallback_from=None)
        try:
            async with asyncio.timeout(timeout_seconds):
                async for _ in await reservation.run_canary():
                    pass
        except TimeoutError as error:
            raise ServiceUnavailable(f"{deployment.name} gave no answer within {timeout_seconds:g} s.") from error
        finally:
            reservation.leave()

    # --- Control ------------------------------------------------------------------------------------------------------

    async def load(self, name: str) -> Capabilities:
        """Load the deployment `name` now, once for all who ask; goes on if they leave. Raises ApiError, KeyError."""
        dispatcher = self.dispatchers[name]
        try:
            return (await dispatcher.arrivals.prepare()).capabilities
        finally:
            dispatcher.arrivals.arrived()

    async def unload(self, name: str) -> bool:
        """Unload the deployment `name` now; False if it has work, or is not loaded. Raises KeyError."""
        return await self.dispatchers[name].supervisor.unload("asked for")

    async def drain(self, seconds: float) -> bool:
        """Refuse new work, let the rest end, then stop everything; True if nothing was cut."""
        self._admission.draining = True
        cut = await self._admission.emptied(seconds)
        for dispatcher in self.dispatchers.values():
            await dispatcher.close(Draining("The server is shutting down.", retry_after=5.0))
        self._tasks.cancel(but="end of ")
        await asyncio.gather(*(dispatcher.supervisor.close() for dispatcher in self.dispatchers.values()))
        await self._tasks.ended()
        return not cut

    # --- State --------------------------------------------------------------------------------------------------------

    def capabilities(self, deployment: Deployment) -> Capabilities | None:
        """Capabilities reported at the last load, also if the model is unloaded now; None before its first load."""
        return self.dispatchers[deployment.name].supervisor.capabilities

    def slots(self, name: str) -> int:
        """Jobs of the deployment `name` that may run at once. Raises KeyError."""
        return self.dispatchers[name].slots

    def snapshot(self) -> dict[str, Any]:
        """What the pool holds now, as JSON can hold it: for tests, and for scripts that look for leaks.

        deployments: by name, see `Dispatcher.snapshot`; reservations: requests that were admitted and have not left;
        unread_bytes: of answers that their clients have not read yet; tasks: names of the background tasks that run.
        """
        return {
            "deployments": {name: dispatcher.snapshot() for name, dispatcher in self.dispatchers.items()},
            "reservations": self._admission.count,
            "unread_bytes": self._unread.held,
            "tasks": self._tasks.names,
        }

    def status(self) -> dict[str, DeploymentStatus]:
        return {name: deployment_status(one, self._requirements[name]) for name, one in self.dispatchers.items()}

    def devices(self) -> list[DeviceStatus]:
        used = self._memory_manager.used if self._memory_manager else lambda _: 0
        devices = self._devices.inventory.devices
        return [device_status(device, used(device.id), self._devices.budget(device.id)) for device in devices]
