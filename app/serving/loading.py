"""Loads a deployment's worker: chooses its device, waits for memory, and tries elsewhere when that runs out.

Owns placement, lease, thread claim and spawn of one worker at a time, and gives all of them back when its process has
ended. Knows nothing of jobs, keep-alive or crashes; the supervisor does.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import structlog

from app.config.deployments import Deployment
from app.metrics import Metrics
from app.serving.interfaces import DeploymentState
from app.serving.memory import Holder, Lease, MemoryManager
from app.serving.policy import Policy
from app.serving.worker import LoadError, Spawn, Worker, WorkerSpec
from backends import messages
from backends.devices import DeviceManager
from backends.interface import Failed, ModelFiles, Placement
from backends.interface import ModelUnavailable as BackendUnavailable

_log = structlog.get_logger("pool")


class Requirements(Protocol):
    """What must be there before a model can be loaded."""

    @property
    def state(self) -> DeploymentState:
        """ "unloaded": nothing is missing."""

    def check(self) -> None:
        """Raise ModelUnavailable while libraries or weights are missing."""

    def has_libraries(self, engine: str) -> bool: ...

    def files(self) -> ModelFiles: ...

    def weights_bytes(self) -> int: ...


def uses_one_thread(deployment: Deployment, requirements: Requirements) -> bool:
    """Whether more threads would be of no use; the embedded voices use them only for their neural models."""
    if deployment.info.name == "voices":
        return deployment.engine == "espeak-ng" or not requirements.has_libraries("neural")
    return deployment.info.single_threaded


@dataclasses.dataclass(frozen=True, slots=True)
class PoolServices:
    """What all deployments share. one_heavy: whether at most one of those whose weights are here, or on their way,
    computes with several threads; inventory_known: is set once devices have been looked for."""

    devices: DeviceManager
    memory_manager: MemoryManager
    metrics: Metrics
    policy: Policy
    spawn: Spawn
    clock: Callable[[], float]
    one_heavy: Callable[[], bool]
    inventory_known: asyncio.Event
    background: Callable[[Coroutine[Any, Any, Any], str], asyncio.Task[Any]]


def memory_of(worker: Worker, placement: Placement | None) -> int:
    """Bytes a worker holds on its device; where that is the CPU, its whole process counts."""
    heartbeat = worker.heartbeat
    on_cpu = placement is not None and placement.device == "cpu"
    return max(heartbeat.footprint_bytes, heartbeat.resident_bytes if on_cpu else 0)


class Loader:
    """Makes the workers of one deployment. placement: of the newest worker; batch_limit: jobs per step (0: no
    limit)."""

    def __init__(
        self, deployment: Deployment, holder: Holder, requirements: Requirements, services: PoolServices
    ) -> None:
        self._deployment, self._holder, self._requirements, self._services = deployment, holder, requirements, services
        self.placement: Placement | None = None
        self.lease: Lease | None = None
        self.batch_limit = 0
        self.waits_for_memory = False
        self._ends: set[asyncio.Task[Any]] = set()  # workers whose processes have not ended yet
        self._cpu_cause = ""  # set: only the CPU is tried from now on
        self._most = 0  # bytes that the worker held at most

    # --- Loading ------------------------------------------------------------------------------------------------------

    async def load(self, on_lost: Callable[[Worker], None]) -> Worker:
        """Load as placed, else alone on the device, else on the CPU if the deployment leaves the choice to us.

        Raises LoadError, and OutOfMemory of the memory manager when nobody can make room.
        """
        info = self._deployment.info
        if {*info.device_preference, *itertools.chain(*info.engine_device_preference.values())} != {"cpu"}:
            await self._services.inventory_known.wait()
        while self._ends:
            await asyncio.wait(self._ends)
        placement = self._place()
        try:
            return await self._load_at(placement, on_lost)
        except LoadError as error:
            if error.failure.kind != "out_of_memory":
                raise
            _log.warning("pool.out_of_memory", deployment=self._deployment.name, at="load", device=placement.device)
        await self._services.memory_manager.clear(placement.device, self._holder)
        try:
            return await self._load_at(placement, on_lost)
        except LoadError as error:
            if error.failure.kind != "out_of_memory" or not self.move_to_cpu(f"{placement.device} is out of memory"):
                raise
        return await self._load_at(self._place(), on_lost)

    def move_to_cpu(self, cause: str) -> bool:
        """Load on the CPU from now on. False if the deployment insists on its device or is there already."""
        on_cpu = self.placement is not None and self.placement.device == "cpu"
        if self._deployment.device != "auto" or on_cpu or self._cpu_cause:
            return False
        self._cpu_cause = cause
        _log.warning("pool.moved_to_cpu", deployment=self._deployment.name, cause=cause)
        return True

    def _place(self) -> Placement:
        d = self._deployment
        try:
            decision = self._services.devices.place(
                d.info,
                engine=d.engine,
                device="cpu" if self._cpu_cause else d.device,
                dtype=d.dtype,
                python=d.python,
                has_libraries=self._requirements.has_libraries,
            )
        except BackendUnavailable as error:
            raise LoadError(error.to_event()) from error
        if decision.fell_back:
            _log.warning("pool.fell_back_to_cpu", deployment=d.name, cause=decision.fell_back)
        if self._cpu_cause:
            return dataclasses.replace(decision.placement, reason=f"moved to the CPU: {self._cpu_cause}")
        return decision.placement

    async def _load_at(self, placement: Placement, on_lost: Callable[[Worker], None]) -> Worker:
        """Take the memory, load, measure. A model that is bigger is loaded again under a lease of its real size."""
        for _ in range(2):
            worker = await self._load_once(placement, on_lost)
            fits = await self._fits(worker)
            if fits and not worker.lost:
                return worker
            await self.end(worker)
            if fits:
                raise LoadError(Failed("worker_lost", "the worker process ended right after it had loaded the model"))
        budget = self._services.devices.budget(placement.device)
        raise LoadError(Failed("out_of_memory", f"it needs more than the budget of {placement.device}, {budget} bytes"))

    async def _load_once(self, placement: Placement, on_lost: Callable[[Worker], None]) -> Worker:
        d, stored = self._deployment, self._requirements.weights_bytes()
        expected, known = self._expected(placement, stored)
        if placement.device == "cpu" and stored > self._services.devices.budget("cpu"):
            budget = self._services.devices.budget("cpu")
            raise LoadError(
                Failed("out_of_memory", f"its weights alone are {stored} bytes, the budget of the CPU is {budget}")
            )
        self.lease = await self._wait_for_memory(placement.device, expected, known)
        threads = self._services.devices.claim_threads(
            d.name, alone=self._services.one_heavy(), single=uses_one_thread(d, self._requirements)
        )
        available = self._services.memory_manager.room(self.lease)
        self.placement = dataclasses.replace(placement, threads=threads, memory_bytes=available)
        load = messages.LoadModel(d.info.name, self._requirements.files(), self.placement, self.batch_limit)
        try:
            async with asyncio.timeout(self._services.policy.load):
                return await self._services.spawn(
                    WorkerSpec(d.name, load, d.python, self._services.policy.load_stall), on_lost
                )
        except TimeoutError as error:
            self._give_back()
            raise LoadError(
                Failed("worker_lost", f"loading took more than {self._services.policy.load:.0f} s")
            ) from error
        except BaseException:
            self._give_back()
            raise

    def _give_back(self) -> None:
        """Return the lease and the threads of a load that failed."""
        lease, self.lease = self.lease, None
        self._release(lease)

    def _key(self, placement: Placement) -> str:
        d = self._deployment
        return self._services.devices.key(d.info, d.model, placement, d.options)

    def _expected(self, placement: Placement, stored: int) -> tuple[int, int]:
        """Bytes to ask for, and how many of those were measured before, slack included (0: it is an estimate).

        On the CPU the whole process counts, so what its libraries take is part of it.
        """
        info, key, devices = self._deployment.info, self._key(placement), self._services.devices
        if known := devices.known(key):
            size = self._services.policy.with_slack(known)
            return size, size
        libraries = (*info.libraries.get("", ()), *info.libraries.get(placement.engine, ()))
        return devices.expect(key, stored, libraries if placement.device == "cpu" else ()), 0

    async def _wait_for_memory(self, device: str, expected: int, known: int) -> Lease:
        self.waits_for_memory = True
        try:
            return await self._services.memory_manager.acquire(self._holder, device, expected, known)
        finally:
            self.waits_for_memory = False

    async def _fits(self, worker: Worker) -> bool:
        """Book what was measured. Returns whether it fits beside everyone who cannot be evicted."""
        if self.lease is None or self.placement is None:
            return False
        measured = self._most = memory_of(worker, self.placement)
        self._services.devices.record(self._key(self.placement), measured)
        try:
            return await self._services.memory_manager.settle(self.lease, measured)
        except asyncio.CancelledError:
            await self.end(worker)
            raise

    def measure(self, size: int) -> None:
        """Book what the worker holds now; if that is over the budget, make room at once."""
        if self.lease is None or self.placement is None:
            return
        device, before, grew = self.lease.device, self.lease.size, size > self._most
        if grew:
            self._most = size
            self._services.devices.record(self._key(self.placement), size)
        if not self._services.memory_manager.measured(self.lease, size):
            if grew:
                _log.warning(
                    "pool.over_budget", deployment=self._deployment.name, device=device, held=before, holds=size
                )
            self._services.background(self._services.memory_manager.free_memory(device), f"room on {device}")

    # --- The end of a worker ------------------------------------------------------------------------------------------

    async def end(self, worker: Worker) -> None:
        """End a worker and free its memory, even if whoever waits for that is cancelled."""
        await asyncio.shield(self.end_soon(worker))

    def end_soon(self, worker: Worker) -> asyncio.Task[None]:
        """Begin the end of a worker; no other one is loaded before it is over."""
        lease, self.lease = self.lease, None
        if self.placement is not None and self._most:
            self._services.devices.record_life(self._key(self.placement), self._most)
        self._most = 0
        task: asyncio.Task[None] = self._services.background(
            self._end(worker, lease), f"end of {self._deployment.name}"
        )
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)
        return task

    async def _end(self, worker: Worker, lease: Lease | None) -> None:
        try:
            await worker.close()
        finally:
            self._release(lease)

    def _release(self, lease: Lease | None) -> None:
        self._services.devices.release_threads(self._deployment.name)
        self._services.metrics.worker_memory_bytes.labels(self._deployment.name).set(0)
        if lease is not None:
            self._services.memory_manager.release(lease)
