"""The pool: every deployment's worker, queue and state behind the protocol that the routes use.

Wires the parts together and owns their start and end. Decides nothing itself: prices are in `pricing`, order in
`queue`, life cycles in `supervisor`, memory in `memory`, one request in `reservation`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import structlog

from app.booleans import is_true
from app.config.deployments import Deployment
from app.config.settings import Settings
from app.errors import ApiError, Draining, ModelUnavailable, OutOfMemory, ServiceUnavailable, WorkerLost
from app.metrics import Metrics
from app.serving.dispatch import Dispatcher
from app.serving.downloads import Puller
from app.serving.interfaces import DeploymentStatus, DeviceStatus, Reservation
from app.serving.loading import PoolServices, uses_one_thread
from app.serving.memory import MemoryManager
from app.serving.notifier import Notifier
from app.serving.policy import Policy
from app.serving.probing import probe_devices
from app.serving.requirements import ModelRequirements
from app.serving.reservation import PoolReservation
from app.serving.supervisor import ModelSupervisor
from app.serving.unread import UnreadAnswers
from app.serving.worker import ProcessWorker, Spawn
from backends.devices import UNLIMITED, DeviceManager, footprint_cache_path
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
        self._draining = False
        self._reservations: set[PoolReservation] = set()
        self._fair = settings.server.several_owners
        self._unread = UnreadAnswers(settings.limits.unread_bytes, fair=self._fair)
        self._left = Notifier()  # of a reservation that was released
        self._tasks: set[asyncio.Task[Any]] = set()
        self.dispatchers: dict[str, Dispatcher] = {}
        self._requirements: dict[str, ModelRequirements] = {}
        self._memory_manager: MemoryManager | None = None

    @property
    def draining(self) -> bool:
        return self._draining

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
            background=self._background,
        )
        for name, deployment in self._deployments.items():
            requirements = self._requirements_of(deployment)
            supervisor = self._supervisor_of(deployment, requirements, services)
            self._requirements[name] = requirements
            self.dispatchers[name] = Dispatcher(
                supervisor, self._settings.limits, self._metrics, loop.time, unread=self._unread, fair=self._fair
            )
        self._name_alternatives()
        self._background(self._look_for_devices(known), "device probe")
        self._background(self._watch(), "watch")
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

    def _name_alternatives(self) -> None:
        """Choose for each deployment another of the same task that lacks nothing at start."""
        ready = [d for d in self._deployments.values() if self._requirements[d.name].state == "unloaded"]
        for name, deployment in self._deployments.items():
            same_task = (d.name for d in ready if d.name != name and set(d.tasks) & set(deployment.tasks))
            self._requirements[name].alternative = next(same_task, "")

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
                self._background(puller.keep_pulling(name, requirements, weights_arrived), f"pull of {name}")
            elif deployment.preload:
                self._background(self._preload(name), f"preload of {name}")

    async def _preload(self, name: str) -> None:
        try:
            await self.load(name)
        except ApiError as error:
            _log.error("pool.preload_failed", deployment=name, error=error.message)

    def _background(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("pool.background_failed", task=task.get_name(), exc_info=error)

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
        reservation = await self._reserve(deployment, owner, request_id, live=live)
        try:
            yield reservation
        finally:
            self._release(reservation)

    async def _reserve(
        self, deployment: Deployment, owner: str, request_id: str, *, live: bool = False
    ) -> PoolReservation:
        """Reserve with the deployment, or the first of its fallbacks that can be loaded.

        A deployment with a fallback is loaded first: only then is it certain who answers.
        """
        reservation = self._reservation(deployment, owner, request_id, asked=deployment, live=live)
        while True:
            self._reservations.add(reservation)
            with ExitStack() as undo:
                undo.callback(self._release, reservation)
                refused = await self._refusal(reservation)
                if refused is None:
                    undo.pop_all()
                    return reservation
            reservation = self._fallback_reservation(reservation, refused, deployment)

    def _release(self, reservation: PoolReservation) -> None:
        self._reservations.discard(reservation)
        self._left.notify()
        reservation.leave()

    @staticmethod
    async def _refusal(reservation: PoolReservation) -> ApiError | None:
        """Load the model where a fallback may answer instead; why it cannot be loaded, None if it can."""
        if not reservation.deployment.fallback:
            return None
        try:
            await reservation.prepare()
        except (ModelUnavailable, OutOfMemory, WorkerLost) as error:
            return error
        return None

    def _fallback_reservation(self, failed: PoolReservation, why: ApiError, asked: Deployment) -> PoolReservation:
        """Reserve with the fallback of a deployment that did not load. Raises `why` if that one is not there either."""
        try:
            fallback = self._deployments[failed.deployment.fallback]
            return self._reservation(fallback, failed.owner, failed.request_id, asked=asked, live=failed.live)
        except ModelUnavailable:
            raise why from None

    def _reservation(
        self, deployment: Deployment, owner: str, request_id: str, *, asked: Deployment, live: bool
    ) -> PoolReservation:
        """Make a reservation. asked: what the client named. Raises Draining, ModelUnavailable, Overloaded or
        InvalidRequest."""
        if self._draining:
            self._metrics.refused_total.labels("draining").inc()
            raise Draining("The server is shutting down.", retry_after=5.0)
        dispatcher = self._who_answers(deployment)
        if not live:
            dispatcher.check(owner)
        fell_back = asked.name if dispatcher.name != asked.name else None
        if fell_back:
            _log.warning("pool.fallback", deployment=fell_back, answered_by=dispatcher.name, request_id=request_id)
        return PoolReservation(dispatcher, owner=owner, request_id=request_id, fallback_from=fell_back, live=live)

    def _who_answers(self, deployment: Deployment) -> Dispatcher:
        """Return the deployment's own dispatcher, or the first of its fallbacks that can run now.

        Raises ModelUnavailable with what the deployment itself lacks, if none can.
        """
        lacking: ModelUnavailable | None = None
        while True:
            dispatcher = self.dispatchers[deployment.name]
            try:
                dispatcher.supervisor.check()
            except ModelUnavailable as error:
                lacking = lacking or error
                if not deployment.fallback:
                    self._metrics.refused_total.labels("unavailable").inc()
                    raise lacking from error
                deployment = self._deployments[deployment.fallback]
            else:
                return dispatcher

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
            return (await dispatcher.prepare()).capabilities
        finally:
            dispatcher.arrived()

    async def unload(self, name: str) -> bool:
        """Unload the deployment `name` now; False if it has work, or is not loaded. Raises KeyError."""
        return await self.dispatchers[name].supervisor.unload("asked for")

    async def drain(self, seconds: float) -> bool:
        """Refuse new work, let the rest end, then stop everything; True if nothing was cut."""
        self._draining = True
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while self._reservations and await self._left.wait(max(0.0, end - loop.time())):
            pass
        cut = len(self._reservations)
        for dispatcher in self.dispatchers.values():
            await dispatcher.close(Draining("The server is shutting down.", retry_after=5.0))
        for task in [t for t in self._tasks if not t.get_name().startswith("end of ")]:
            task.cancel()
        await asyncio.gather(*(dispatcher.supervisor.close() for dispatcher in self.dispatchers.values()))
        await asyncio.gather(*self._tasks, return_exceptions=True)
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
            "reservations": len(self._reservations),
            "unread_bytes": self._unread.held,
            "tasks": sorted(task.get_name() for task in self._tasks),
        }

    def status(self) -> dict[str, DeploymentStatus]:
        return {name: self._row(dispatcher, self._requirements[name]) for name, dispatcher in self.dispatchers.items()}

    def _row(self, dispatcher: Dispatcher, requirements: ModelRequirements) -> DeploymentStatus:
        supervisor, d = dispatcher.supervisor, dispatcher.supervisor.deployment
        real, placement, state = (
            supervisor.worker.capabilities if supervisor.worker else None,
            supervisor.placement,
            supervisor.health_state,
        )
        detail: dict[str, object] = dict(real.detail) if real else {}
        if requirements.pulling:
            detail["pull"] = {"bytes_done": requirements.done, "bytes_total": requirements.total}
        return DeploymentStatus(
            backend=d.info.name,
            model=d.model,
            engine=real.engine if real else d.engine,
            device=real.device if real else placement.device if placement else d.device,
            dtype=real.dtype if real else d.dtype,
            reason=placement.reason if placement else "",
            state=state,
            error=supervisor.error or (requirements.problem() if state in ("absent", "pulling") else None),
            fallback=d.fallback,
            footprint_bytes=supervisor.memory_bytes,
            jobs_active=dispatcher.active,
            queue_depth=dispatcher.waiting,
            live_sessions=dispatcher.live.count,
            real_time_factor=dispatcher.pricer.real_time_factor,
            last_used=dispatcher.last_used,
            detail=detail,
        )

    def devices(self) -> list[DeviceStatus]:
        rows = []
        for device in self._devices.inventory.devices:
            budget = self._devices.budget(device.id)
            used = self._memory_manager.used(device.id) if self._memory_manager else 0
            shown = 0 if budget == UNLIMITED else budget
            rows.append(DeviceStatus(device.id, device.kind, device.name, device.memory_total, used, shown))
        return rows
