"""The life of one deployment's worker: absent, loading, ready, busy, failed, unloaded.

Owns unloading, keep-alive, crashes with back-off, and quarantine of a hung worker. There is one worker at most: the
next one starts after the last one's process has ended. How it is loaded is the business of `loading`; the dispatcher
tells how many jobs there are.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from app.config.deployments import Deployment
from app.errors import ApiError, ModelUnavailable, OutOfMemory, WorkerLost
from app.serving.interfaces import State
from app.serving.loading import Loader, PoolServices, Requirements, memory_of
from app.serving.notifier import Notifier
from app.serving.worker import LoadError, Worker
from backends.interface import Capabilities, Done, Failed, Placement

_log = structlog.get_logger("pool")


class Jobs(Protocol):
    """What the resident model must know of its jobs."""

    @property
    def active(self) -> int: ...

    @property
    def waiting(self) -> int: ...


class ModelSupervisor:
    """At most one worker, and why there is none."""

    def __init__(self, deployment: Deployment, requirements: Requirements, services: PoolServices) -> None:
        self.deployment, self._requirements, self._m = deployment, requirements, services
        self.loader = Loader(deployment, self, requirements, services)
        self.worker: Worker | None = None
        self.capabilities: Capabilities | None = None  # by the last worker that loaded, also when it is gone
        self.error: str | None = None
        self.changed = Notifier()
        self.draining = False  # asked to make room: running jobs end, no new ones start
        self.load_seconds = 0.0
        self.idle_since = self.loaded_at = services.clock()
        self._jobs: Jobs | None = None
        self._life = asyncio.Lock()
        self._loading = False
        self._quarantined = False
        self._failures = 0  # crashes and failed loads in a row
        self._load_failed = False
        self._next_try = 0.0
        self._rebuild: asyncio.Task[None] | None = None
        self._baseline = 0  # bytes after the load
        self._ran_out = False  # of memory, since the load
        self._keep_alive: asyncio.TimerHandle | None = None
        self._ending: Worker | None = None  # unloaded, but its process holds its memory still

    def attach(self, jobs: Jobs) -> None:
        self._jobs = jobs

    # --- State --------------------------------------------------------------------------------------------------------

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
    def quarantined(self) -> bool:
        """Its worker was killed because it hung, and no other one has taken its place yet."""
        return self._quarantined

    @property
    def placement(self) -> Placement | None:
        return self.loader.placement

    @property
    def state(self) -> State:
        if self.worker is not None or self._ending is not None:
            return "busy" if self.active else "ready"
        if self._quarantined:
            return "failed"
        if self._loading:
            return "loading"
        source = self._requirements.state
        if source != "unloaded":
            return source
        return "failed" if self.error else "unloaded"

    @property
    def slots(self) -> int:
        """Jobs that may run at once; 1 while nothing is known."""
        most = self.worker.capabilities.max_batch if self.worker else 1
        return min(most, self.loader.batch_limit or most)

    @property
    def pinned(self) -> bool:
        return self.deployment.keep_alive < 0

    @property
    def memory_bytes(self) -> int:
        holder = self.worker or self._ending
        return memory_of(holder, self.placement) if holder else 0

    def check(self) -> None:
        """Raises ModelUnavailable if a request has no chance now."""
        if self.worker is not None:
            return
        self._requirements.check()
        wait = self._next_try - self._m.clock()
        if self.error and (self._load_failed or self._failures >= self._m.policy.crashes) and wait > 0:
            raise ModelUnavailable(f"{self.name} cannot run now: {self.error}", retry_after=max(1.0, wait))

    # --- Loading ------------------------------------------------------------------------------------------------------

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
            return await self._load()

    async def _load(self) -> Worker:
        self._loading = True
        try:
            await asyncio.sleep(max(0.0, self._next_try - self._m.clock()) if self._failures else 0.0)
            worker = await self.loader.load(self._lost)
        except LoadError as error:
            raise self._failed_load(error.failure) from error
        except OutOfMemory as error:
            self.error = error.message
            raise
        finally:
            self._loading = False
            self.changed.notify()
        self._start_idling(worker)
        self._m.memory_manager.refresh()  # from now on it can be asked to make room
        return worker

    def _start_idling(self, worker: Worker) -> None:
        self.worker, self.error, self.capabilities = worker, None, worker.capabilities
        self._quarantined = self.draining = self._ran_out = self._load_failed = False
        self.loaded_at = self.idle_since = self._m.clock()
        self.load_seconds = worker.load_seconds
        self._baseline = self.memory_bytes
        self._measure()
        real, reason = worker.capabilities, self.placement.reason if self.placement else ""
        place = {"engine": real.engine, "device": real.device, "dtype": real.dtype, "reason": reason}
        _log.info("pool.loaded", deployment=self.name, pid=worker.pid, seconds=round(worker.load_seconds, 3), **place)
        self._watch_idleness()

    def _failed_load(self, failure: Failed) -> ApiError:
        self._load_failed = True
        self._count_failure(failure.message)
        _log.error("pool.load_failed", deployment=self.name, kind=failure.kind, error=failure.message)
        retry = max(1.0, self._next_try - self._m.clock())
        if failure.kind == "out_of_memory":
            return OutOfMemory(f"There is no memory for {self.name}: {failure.message}", retry_after=max(5.0, retry))
        if failure.kind == "worker_lost":
            return WorkerLost(
                f"The worker of {self.name} was lost while it loaded: {failure.message}.", retry_after=retry
            )
        if failure.kind == "model_unavailable":
            return ModelUnavailable(failure.message, retry_after=retry)
        return ModelUnavailable(
            f"{self.name} could not be loaded; the server's log has the details.", retry_after=retry
        )

    def _count_failure(self, error: str) -> None:
        """The next try is at once after the first crash; the pauses after more of them, or after failed loads,
        double."""
        self._failures += 1
        self.error = error
        doublings = self._failures - (1 if self._load_failed else 2)
        pause = self._m.policy.first_back_off * 2.0 ** min(30, doublings) if doublings >= 0 else 0.0
        self._next_try = self._m.clock() + min(self._m.policy.longest_back_off, pause)

    # --- Unloading ----------------------------------------------------------------------------------------------------

    async def unload(self, reason: str, *, even_busy: bool = False) -> bool:
        """End the worker; returns once its process is gone. False if it has jobs, or there is none."""
        async with self._life:
            worker = self.worker
            wanted = self.active or (self.waiting and not self.draining)
            if worker is None or (wanted and not even_busy):
                return False
            _log.info("pool.unloading", deployment=self.name, pid=worker.pid, reason=reason)
            self.worker, self._ending, self.draining = None, worker, False
            if self.active:
                worker.kill()
            try:
                await self._let_go(worker)
            finally:
                self._ending = None
            return True

    async def _let_go(self, worker: Worker) -> None:
        self._stop_keep_alive()
        try:
            await self.loader.end(worker)
        finally:
            self.changed.notify()

    def job_ended(self, last: Done | Failed | None) -> None:
        """A slot is free again."""
        self.idle_since = self._m.clock()
        self.changed.notify()
        if isinstance(last, Done):
            self._failures = 0
        self._m.memory_manager.refresh()
        self._measure()
        self._watch_idleness()

    def queue_emptied(self) -> None:
        """Those who waited have left or were refused: perhaps nobody needs the model any more."""
        self._m.memory_manager.refresh()
        self._watch_idleness()

    def _watch_idleness(self) -> None:
        self._stop_keep_alive()
        keep = self.deployment.keep_alive
        if self._is_idle() and keep >= 0:
            self._keep_alive = asyncio.get_running_loop().call_later(keep, self._idle_for_long)

    def _is_idle(self) -> bool:
        return self.worker is not None and not self.active and not self.waiting

    def _idle_for_long(self) -> None:
        if self._is_idle():
            self._m.background(self.unload("idle"), f"unload of {self.name}")

    def _stop_keep_alive(self) -> None:
        if self._keep_alive is not None:
            self._keep_alive.cancel()
            self._keep_alive = None

    # --- Out of memory at work ----------------------------------------------------------------------------------------

    async def make_space(self) -> None:
        """From now on half as many jobs per step, and nobody idle beside us on the device."""
        self._ran_out = True
        self.loader.batch_limit = max(1, self.slots // 2)
        if self.worker is not None:
            self.worker.limit_batch(self.loader.batch_limit)
        if self.placement is not None:
            await self._m.memory_manager.clear(self.placement.device, self)

    async def replace_on_cpu(self) -> bool:
        """Let running jobs end, then go on on the CPU. False if that is not allowed."""
        device = self.placement.device if self.placement else "the device"
        if not self.loader.move_to_cpu(f"{device} ran out of memory at work"):
            return False
        self.ask_to_drain(True)
        while self.worker is not None and not await self.unload("moves to the CPU"):
            await self.changed.wait()
        self.ask_to_drain(False)
        return True

    def ask_to_drain(self, please: bool) -> None:
        """Running jobs end, no new ones start until the worker was unloaded, or the wish is taken back."""
        self.draining = please
        self.changed.notify()

    # --- Trouble ------------------------------------------------------------------------------------------------------

    def _lost(self, worker: Worker) -> None:
        """Called by the worker when its process ended and nobody had asked for that."""
        if worker is not self.worker:
            return
        self.worker = None
        quarantine = self.error if self._quarantined else None
        self._count_failure(quarantine or "the worker process ended unexpectedly")
        self._m.metrics.worker_restarts_total.labels(self.name).inc()
        _log.error("pool.worker_lost", deployment=self.name, pid=worker.pid, error=self.error, failures=self._failures)
        self._stop_keep_alive()
        self.loader.end_soon(worker)
        self.changed.notify()
        if self._quarantined:  # otherwise the next job starts the next worker
            self._rebuild = self._m.background(self._replace(), f"replacement of {self.name}")

    async def _replace(self) -> None:
        try:
            await self.ensure()
        except ApiError as error:
            _log.error("pool.rebuild_failed", deployment=self.name, error=error.message)

    def watch(self, now: float) -> None:
        """Called regularly: measure, take a worker out that makes no progress, replace one that leaks."""
        worker = self.worker
        if worker is None:
            return
        self._measure()
        policy = self._m.policy
        if now - worker.progress_at > policy.hang:
            self._quarantined = True
            self.error = f"the worker made no progress for {policy.hang:g} s; it is being replaced"
            _log.error("pool.worker_hangs", deployment=self.name, pid=worker.pid)
            worker.kill()
        elif self._ran_out and self._is_idle():
            self._ran_out = False
            if self.memory_bytes > self._baseline * (1 + policy.slack):
                self._m.background(self.unload("memory did not return to its baseline"), f"unload of {self.name}")

    def _measure(self) -> None:
        if self.worker is not None:
            self.loader.measure(self.memory_bytes)
            self._m.metrics.worker_memory_bytes.labels(self.name).set(self.memory_bytes)

    async def close(self) -> None:
        """At the end of the pool, when no job is left."""
        if self._rebuild is not None:
            self._rebuild.cancel()
        self._stop_keep_alive()
        await self.unload("shutdown", even_busy=True)
