"""The life of one deployment's worker: absent, loading, ready, busy, failed, unloaded.

Owns loading (with the ladder of what to do when memory runs out), unloading, keep-alive, crashes with back-off, and
quarantine of a hung worker. One at most at any time: the next worker starts after the last one's process has ended.
Knows no request and no queue; the dispatcher tells it how many jobs there are.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import structlog

from app.deployments import Deployment
from app.errors import ApiError, ModelUnavailable, OutOfMemory, WorkerLost
from app.metrics import Metrics
from app.serving.arbiter import Arbiter, Lease
from app.serving.bell import Bell
from app.serving.policy import Policy
from app.serving.protocol import State
from app.serving.worker import LoadError, Spawn, Worker, WorkerSpec
from backends import frames
from backends.devices import DeviceManager
from backends.interface import Done, Failed, ModelFiles, Placement
from backends.interface import ModelUnavailable as BackendUnavailable

SINGLE_THREADED = ("espeak", "pocketsphinx", "fake")

_log = structlog.get_logger("pool")


class Jobs(Protocol):
    """What the resident model must know of its jobs."""

    @property
    def active(self) -> int: ...

    @property
    def waiting(self) -> int: ...


class Sources(Protocol):
    """What must be there before a model can be loaded; the answers are for people."""

    def check(self) -> None:
        """Raises ModelUnavailable while libraries or weights are missing."""

    @property
    def state(self) -> State: ...

    def has_libraries(self, engine: str) -> bool: ...

    def files(self) -> ModelFiles: ...

    def weights_bytes(self) -> int: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Machinery:
    """What all residents share."""

    devices: DeviceManager
    arbiter: Arbiter
    metrics: Metrics
    policy: Policy
    spawn: Spawn
    clock: Callable[[], float]
    one_heavy: bool  # only one deployment can ever compute with several threads
    background: Callable[[Coroutine[Any, Any, Any], str], asyncio.Task[Any]]


class Resident:
    """At most one worker, and why there is none."""

    def __init__(self, deployment: Deployment, sources: Sources, machinery: Machinery) -> None:
        self.deployment, self._sources, self._m = deployment, sources, machinery
        self.worker: Worker | None = None
        self.placement: Placement | None = None
        self.error: str | None = None
        self.changed = Bell()
        self.yielding = False
        self.waits_for_memory = False
        self.load_seconds = 0.0
        self.idle_since = machinery.clock()
        self.loaded_at = machinery.clock()
        self._jobs: Jobs | None = None
        self._lease: Lease | None = None
        self._life = asyncio.Lock()
        self._loading = False
        self._quarantined = False
        self._failures = 0  # crashes and failed loads in a row
        self._next_try = 0.0
        self._batch_limit = 0
        self._cpu_reason = ""  # set: only the CPU is tried from now on
        self._keep_alive: asyncio.TimerHandle | None = None

    def attach(self, jobs: Jobs) -> None:
        self._jobs = jobs

    # --- State ----------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.deployment.name

    @property
    def active(self) -> int:
        return self._jobs.active if self._jobs else 0

    @property
    def waiting(self) -> int:
        return self._jobs.waiting if self._jobs else 0

    @property
    def state(self) -> State:
        if self.worker is not None:
            return "busy" if self.active else "ready"
        if self._quarantined:
            return "failed"
        if self._loading:
            return "loading"
        source = self._sources.state
        if source != "unloaded":
            return source
        return "failed" if self.error else "unloaded"

    @property
    def slots(self) -> int:
        """Jobs that may run at once; 1 while nothing is known."""
        most = self.worker.capabilities.max_batch if self.worker else 1
        return min(most, self._batch_limit) if self._batch_limit else most

    @property
    def pinned(self) -> bool:
        return self.deployment.keep_alive < 0

    @property
    def memory_bytes(self) -> int:
        """Measured memory of the worker on its device; the process counts where the device is the CPU."""
        if self.worker is None:
            return 0
        pulse = self.worker.pulse
        on_cpu = self.placement is not None and self.placement.device == "cpu"
        return max(pulse.footprint_bytes, pulse.resident_bytes if on_cpu else 0)

    def check(self) -> None:
        """Raises ModelUnavailable if a request has no chance now."""
        if self.worker is not None:
            return
        self._sources.check()
        wait = self._next_try - self._m.clock()
        if self.error and self._failures >= self._m.policy.crashes and wait > 0:
            raise ModelUnavailable(f"{self.name} cannot run: {self.error}", retry_after=max(1.0, wait))

    # --- Loading --------------------------------------------------------------------------------------------------------

    async def ensure(self) -> Worker:
        """The loaded worker. Raises ApiError if there can be none."""
        worker = self.worker
        if worker is not None:
            return worker
        async with self._life:
            worker = self.worker
            if worker is not None:  # someone else loaded it while we waited for the lock
                return worker
            self.check()
            await asyncio.sleep(max(0.0, self._next_try - self._m.clock()) if self._failures else 0.0)
            self._loading = True
            try:
                worker = await self._climb()
            except LoadError as error:
                raise self._failed_load(error.failure) from error
            finally:
                self._loading = False
                self.changed.ring()
            self._settle_in(worker)
            return worker

    def _settle_in(self, worker: Worker) -> None:
        self.worker, self.error = worker, None
        self._quarantined = self.yielding = False
        self.loaded_at = self.idle_since = self._m.clock()
        self.load_seconds = worker.load_seconds
        self._measure()
        real = worker.capabilities
        _log.info(
            "pool.loaded", deployment=self.name, pid=worker.pid, engine=real.engine, device=real.device, dtype=real.dtype,
            reason=self.placement.reason if self.placement else "", seconds=round(worker.load_seconds, 3),
        )  # fmt: skip
        self.changed.ring()
        self._watch_idleness()

    def _failed_load(self, failure: Failed) -> ApiError:
        self._failures += 1
        self._next_try = self._m.clock() + self._back_off()
        self.error = failure.message
        _log.error("pool.load_failed", deployment=self.name, kind=failure.kind, error=failure.message)
        if failure.kind == "out_of_memory":
            return OutOfMemory(f"There is no memory for {self.name}: {failure.message}", retry_after=5.0)
        if failure.kind == "worker_lost":
            return WorkerLost(f"The worker of {self.name} ended while it loaded.", retry_after=self._back_off())
        if failure.kind == "model_unavailable":
            return ModelUnavailable(failure.message, retry_after=self._back_off())
        return ModelUnavailable(
            f"{self.name} could not be loaded: {failure.message}. The server's log has the details.", retry_after=self._back_off()
        )

    def _back_off(self) -> float:
        """Seconds before the next try: none after the first failure, then doubling."""
        if self._failures < 2:
            return 0.0
        return min(self._m.policy.longest_back_off, self._m.policy.first_back_off * 2.0 ** min(30, self._failures - 2))

    async def _climb(self) -> Worker:
        """The ladder at load: as placed; alone on the device; on the CPU, if the deployment leaves the choice to us."""
        placement = self._place()
        try:
            return await self._load_at(placement)
        except LoadError as error:
            if error.failure.kind != "out_of_memory":
                raise
            _log.warning("pool.out_of_memory", deployment=self.name, at="load", device=placement.device, next="evict others")
        await self._m.arbiter.clear(placement.device, self)
        try:
            return await self._load_at(placement)
        except LoadError as error:
            if error.failure.kind != "out_of_memory" or not self.move_to_cpu(f"{placement.device} is out of memory"):
                raise
        return await self._load_at(self._place())

    def _place(self) -> Placement:
        d = self.deployment
        device = "cpu" if self._cpu_reason else d.device
        try:
            decision = self._m.devices.place(
                d.info, engine=d.engine, device=device, dtype=d.dtype, python=d.python, has_libraries=self._sources.has_libraries
            )
        except BackendUnavailable as error:
            raise LoadError(error.to_event()) from error
        if decision.fell_back:
            _log.warning("pool.fell_back_to_cpu", deployment=self.name, cause=decision.fell_back)
        placement = decision.placement
        if self._cpu_reason:
            placement = dataclasses.replace(placement, reason=f"moved to the CPU: {self._cpu_reason}")
        return placement

    async def _load_at(self, placement: Placement) -> Worker:
        """Take the memory, load, measure; if it turns out too big for its place, wait for a place of the real size."""
        for _ in range(2):
            worker, fits = await self._load_once(placement)
            if fits:
                return worker
            await self._let_go(worker)
        budget = self._m.devices.budget(placement.device)
        raise LoadError(Failed("out_of_memory", f"it needs more than the budget of {placement.device} ({budget} bytes)"))

    async def _load_once(self, placement: Placement) -> tuple[Worker, bool]:
        devices, arbiter, d = self._m.devices, self._m.arbiter, self.deployment
        key = devices.key(d.info, d.model, placement, d.options)
        expected = devices.expect(key, self._sources.weights_bytes())
        self._lease = await self._wait_for_memory(placement.device, expected)
        threads = devices.claim_threads(self.name, alone=self._m.one_heavy, single=d.info.name in SINGLE_THREADED)
        self.placement = dataclasses.replace(placement, threads=threads, memory_bytes=arbiter.room(self._lease))
        load = frames.LoadModel(d.info.name, self._sources.files(), self.placement, self._batch_limit)
        try:
            async with asyncio.timeout(self._m.policy.load):
                worker = await self._m.spawn(WorkerSpec(self.name, load, d.python), self._lost)
        except TimeoutError as error:
            self._release()
            raise LoadError(Failed("worker_lost", f"loading took more than {self._m.policy.load:.0f} s")) from error
        except BaseException:
            self._release()
            raise
        self.worker = worker
        devices.record(key, self.memory_bytes)
        fits = await arbiter.settle(self._lease, self.memory_bytes)
        self.worker = None
        return worker, fits

    async def _wait_for_memory(self, device: str, expected: int) -> Lease:
        self.waits_for_memory = True
        try:
            return await self._m.arbiter.acquire(self, device, expected)
        finally:
            self.waits_for_memory = False

    def move_to_cpu(self, why: str) -> bool:
        """From now on load on the CPU; False if the deployment insists on its device or is there already."""
        on_cpu = self.placement is not None and self.placement.device == "cpu"
        if self.deployment.device != "auto" or on_cpu or self._cpu_reason:
            return False
        self._cpu_reason = why
        _log.warning("pool.moved_to_cpu", deployment=self.name, cause=why)
        return True

    async def make_space(self) -> None:
        """Out of memory at work: from now on half as many jobs per step, and nobody idle beside us on the device."""
        self._batch_limit = max(1, self.slots // 2)
        if self.worker is not None:
            self.worker.limit_batch(self._batch_limit)
        if self.placement is not None:
            await self._m.arbiter.clear(self.placement.device, self)

    async def replace_on_cpu(self) -> bool:
        """Out of memory again: let running jobs end, then go on on the CPU. False if that is not allowed."""
        device = self.placement.device if self.placement else "the device"
        if not self.move_to_cpu(f"{device} ran out of memory at work"):
            return False
        self.yielding = True
        while self.worker is not None and not await self.unload("moves to the CPU"):
            await self.changed.wait(1.0)
        self.yielding = False
        return True

    # --- Unloading ------------------------------------------------------------------------------------------------------

    async def unload(self, reason: str, *, even_busy: bool = False) -> bool:
        """End the worker; returns once its process is gone. False if it has jobs, or there is none."""
        async with self._life:
            worker = self.worker
            if worker is None or (self.active and not even_busy):
                return False
            _log.info("pool.unloading", deployment=self.name, pid=worker.pid, reason=reason)
            self.worker, self.yielding = None, False
            await self._let_go(worker)
            return True

    async def _let_go(self, worker: Worker) -> None:
        """Its memory is free when its process has ended, whatever happens to whoever waits for that."""
        self._stop_keep_alive()
        await asyncio.shield(self._m.background(self._end(worker), f"end of {self.name}"))

    async def _end(self, worker: Worker) -> None:
        try:
            await worker.close()
        finally:
            self._release()

    def _release(self) -> None:
        self._m.devices.release_threads(self.name)
        if self._lease is not None:
            self._m.arbiter.release(self._lease)
            self._lease = None
        self._m.metrics.worker_memory_bytes.labels(self.name).set(0)
        self.changed.ring()

    def job_ended(self, last: Done | Failed | None) -> None:
        """A slot is free again."""
        self.idle_since = self._m.clock()
        self.changed.ring()
        if isinstance(last, Done):
            self._failures = 0
        self._m.arbiter.look_again()
        self._watch_idleness()

    def _watch_idleness(self) -> None:
        self._stop_keep_alive()
        keep = self.deployment.keep_alive
        if self.worker is not None and not self.active and not self.waiting and keep >= 0:
            loop = asyncio.get_running_loop()
            self._keep_alive = loop.call_later(keep, self._idle_for_long)

    def _idle_for_long(self) -> None:
        if not self.active and not self.waiting:
            self._m.background(self.unload("idle"), f"unload of {self.name}")

    def _stop_keep_alive(self) -> None:
        if self._keep_alive is not None:
            self._keep_alive.cancel()
            self._keep_alive = None

    # --- Trouble --------------------------------------------------------------------------------------------------------

    def _lost(self, worker: Worker) -> None:
        """Called by the worker when its process ended and nobody had asked for that."""
        if worker is not self.worker:
            return
        self.worker = None
        self._failures += 1
        self._next_try = self._m.clock() + self._back_off()
        if not self._quarantined:
            self.error = "the worker process ended unexpectedly"
        self._m.metrics.worker_restarts_total.labels(self.name).inc()
        _log.error("pool.worker_lost", deployment=self.name, pid=worker.pid, error=self.error, failures=self._failures)
        self._m.background(self._replace(worker), f"replacement of {self.name}")

    async def _replace(self, worker: Worker) -> None:
        async with self._life:
            await self._let_go(worker)
        if not self._quarantined:
            return
        try:
            await self.ensure()
        except ApiError as error:
            _log.error("pool.rebuild_failed", deployment=self.name, error=error.message)

    def watch(self, now: float) -> None:
        """Called regularly: measure, and take a worker out that makes no progress."""
        worker = self.worker
        if worker is None:
            return
        self._measure()
        if now - worker.progress_at > self._m.policy.hang:
            self._quarantined = True
            self.error = f"the worker made no progress for {self._m.policy.hang:.0f} s; it is being replaced"
            _log.error("pool.worker_hangs", deployment=self.name, pid=worker.pid)
            worker.kill()

    def _measure(self) -> None:
        if self._lease is not None and self.worker is not None:
            self._m.arbiter.measured(self._lease, self.memory_bytes)
            self._m.metrics.worker_memory_bytes.labels(self.name).set(self.memory_bytes)

    async def close(self) -> None:
        """At the end of the pool."""
        self._stop_keep_alive()
        await self.unload("shutdown", even_busy=True)
