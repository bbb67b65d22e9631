"""The life of one deployment's worker: empty, loading, ready, draining, unloading, quarantined.

Owns unloading, crashes with back-off, and quarantine of a hung worker. There is one worker at most: the next one starts
after the last one's process has ended. `app.serving.loading` loads it, `app.serving.recovery` helps when memory runs
out at work; the dispatcher tells how many jobs there are.
"""

from __future__ import annotations

import asyncio
import enum
from typing import Protocol

import structlog

from app.config.deployments import Deployment
from app.errors import ApiError, ModelUnavailable, OutOfMemory, WorkerLost
from app.serving.backoff import Backoff
from app.serving.idle_timer import IdleTimer
from app.serving.interfaces import DeploymentState
from app.serving.loading import Loader, PoolServices, Requirements, memory_of
from app.serving.notifier import Notifier
from app.serving.recovery import Recovery
from app.serving.worker import LoadError, Worker
from backends.interface import Capabilities, Done, Failed, Placement

_log = structlog.get_logger("pool")


class Jobs(Protocol):
    """What a supervisor must know of the jobs of its model."""

    @property
    def active(self) -> int: ...

    @property
    def live_active(self) -> int: ...

    @property
    def waiting(self) -> int: ...


class State(enum.Enum):
    """EMPTY -> LOADING -> READY -> UNLOADING -> EMPTY, with detours.

    DRAINING: running jobs end and no new ones start, until the worker is unloaded or READY again. QUARANTINED: the
    worker hung and was killed; lasts until another one is READY. A worker that is lost leads from READY or DRAINING to
    EMPTY, a load that fails from LOADING to EMPTY.
    """

    EMPTY = enum.auto()
    LOADING = enum.auto()
    READY = enum.auto()
    DRAINING = enum.auto()
    UNLOADING = enum.auto()
    QUARANTINED = enum.auto()


class ModelSupervisor:
    """Keeps at most one worker of a deployment, and knows why there is none.

    capabilities: of the last worker that loaded, also when it is gone; error: why the last worker ended or did not
    load; changed: notified at each change of state and each end of a job; idle_since, loaded_at: seconds of the
    services' clock; load_seconds: duration of the last load; recovery: what to do when a job runs out of memory.
    """

    def __init__(self, deployment: Deployment, requirements: Requirements, services: PoolServices) -> None:
        self.deployment, self._requirements, self._services = deployment, requirements, services
        self.loader = Loader(deployment, self, requirements, services)
        self.capabilities: Capabilities | None = None
        self.error: str | None = None
        self.changed = Notifier()
        self.load_seconds = 0.0
        self.idle_since = self.loaded_at = services.clock()
        self._jobs: Jobs | None = None
        self._state = State.EMPTY
        self._process: Worker | None = None  # holds memory; while UNLOADING it takes no jobs any more
        self._changes = asyncio.Lock()  # one load or unload at a time
        self._backoff = Backoff(services.policy, services.clock)
        self._replacement: asyncio.Task[None] | None = None
        self.recovery = Recovery(self, self.loader, services)
        self._idle_timer = IdleTimer(deployment.keep_alive, self._is_idle, self._unload_idle)

    def attach(self, jobs: Jobs) -> None:
        """Name the dispatcher whose jobs count; called once."""
        self._jobs = jobs

    # --- State --------------------------------------------------------------------------------------------------------

    def _to(self, state: State) -> None:
        self._state = state
        self.changed.notify()

    @property
    def name(self) -> str:
        return self.deployment.name

    @property
    def active(self) -> int:
        """Jobs that need the worker, live ones included."""
        return self._jobs.active + self._jobs.live_active if self._jobs else 0

    @property
    def live_active(self) -> int:
        return self._jobs.live_active if self._jobs else 0

    @property
    def waiting(self) -> int:
        return self._jobs.waiting if self._jobs else 0

    @property
    def worker(self) -> Worker | None:
        """The loaded worker, if it takes jobs."""
        return None if self._state is State.UNLOADING else self._process

    @property
    def draining(self) -> bool:
        """Whether running jobs may end but no new ones start."""
        return self._state is State.DRAINING

    @property
    def quarantined(self) -> bool:
        """Whether the worker was killed because it hung, and no other one is loaded yet."""
        return self._state is State.QUARANTINED

    @property
    def failures(self) -> int:
        """Crashes and failed loads since the last finished job."""
        return self._backoff.failures

    @property
    def placement(self) -> Placement | None:
        return self.loader.placement

    @property
    def health_state(self) -> DeploymentState:
        """The state as /health shows it."""
        if self._process is not None:
            return "busy" if self.active else "ready"
        if self.quarantined:
            return "failed"
        if self._state is State.LOADING:
            return "loading"
        required = self._requirements.state
        if required != "unloaded":
            return required
        return "failed" if self.error else "unloaded"

    @property
    def slots(self) -> int:
        """Jobs that may run at once; 1 while nothing is known."""
        most = self.worker.capabilities.max_batch if self.worker else 1
        return min(most, self.loader.batch_limit or most)

    @property
    def pinned(self) -> bool:
        """Whether nobody may ask it to make room; a live session lasts longer than any request would wait for that."""
        return self.deployment.keep_alive < 0 or self.live_active > 0

    @property
    def load_is_pointless(self) -> bool:
        """Whether the load still waits for memory, and nobody for the model."""
        return self.loader.waits_for_memory and not self.waiting

    @property
    def memory_bytes(self) -> int:
        """Bytes held on the device, 0 without a process."""
        return memory_of(self._process, self.placement) if self._process else 0

    def check(self) -> None:
        """Raise ModelUnavailable if a request has no chance now."""
        if self.worker is not None:
            return
        self._requirements.check()
        if self.error and self._backoff.refuses:
            raise ModelUnavailable(
                f"{self.name} cannot run now: {self.error}", retry_after=max(1.0, self._backoff.remaining)
            )

    # --- Loading ------------------------------------------------------------------------------------------------------

    async def ensure(self) -> Worker:
        """Return the loaded worker, after loading it if need be. Raises ApiError if there can be none."""
        worker = self.worker
        if worker is not None:
            return worker
        async with self._changes:
            worker = self.worker
            if worker is not None:  # someone else loaded it while we waited for the lock
                return worker
            self.check()
            return await self._load()

    async def _load(self) -> Worker:
        if not self.quarantined:
            self._to(State.LOADING)
        try:
            await asyncio.sleep(self._backoff.remaining)
            worker = await self.loader.load(self._lost)
        except LoadError as error:
            raise self._failed_load(error.failure) from error
        except OutOfMemory as error:
            self.error = error.message
            raise
        else:
            self._loaded(worker)
            return worker
        finally:
            if self._state is State.LOADING:
                self._state = State.EMPTY
            self.changed.notify()
            self._services.memory_manager.refresh()  # a loaded model can be asked to make room

    def _loaded(self, worker: Worker) -> None:
        self._process, self.error, self.capabilities = worker, None, worker.capabilities
        self._backoff.record_load()
        self.loaded_at = self.idle_since = self._services.clock()
        self.load_seconds = worker.load_seconds
        self.recovery.loaded(self.memory_bytes)
        self._measure()
        self._to(State.READY)
        self._log_loaded(worker)
        self._idle_timer.restart()

    def _log_loaded(self, worker: Worker) -> None:
        real, reason = worker.capabilities, self.placement.reason if self.placement else ""
        _log.info(
            "pool.loaded",
            deployment=self.name,
            pid=worker.pid,
            seconds=round(worker.load_seconds, 3),
            engine=real.engine,
            device=real.device,
            dtype=real.dtype,
            reason=reason,
        )

    def _failed_load(self, failure: Failed) -> ApiError:
        """Record a failed load and return the error that clients get."""
        self.error = failure.message
        self._backoff.record_failed_load()
        _log.error("pool.load_failed", deployment=self.name, kind=failure.kind, error=failure.message)
        return _load_error(self.name, failure, max(1.0, self._backoff.remaining))

    # --- Unloading ----------------------------------------------------------------------------------------------------

    async def unload(self, reason: str, *, even_busy: bool = False) -> bool:
        """End the worker; returns once its process is gone. False if it has jobs, or there is none."""
        async with self._changes:
            worker = self.worker
            needed = self.active or (self.waiting and not self.draining)
            if worker is None or (needed and not even_busy):
                return False
            _log.info("pool.unloading", deployment=self.name, pid=worker.pid, reason=reason)
            self._to(State.UNLOADING)
            if self.active:
                worker.kill()
            self._idle_timer.stop()
            try:
                await self.loader.end(worker)
            finally:
                self._process = None
                self._to(State.EMPTY)
            return True

    def job_ended(self, last: Done | Failed | None) -> None:
        """Note that a slot is free again. last: the job's last event."""
        self.idle_since = self._services.clock()
        self.changed.notify()
        if isinstance(last, Done):
            self._backoff.record_done()
        self._services.memory_manager.refresh()
        self._measure()
        self._idle_timer.restart()

    def queue_emptied(self) -> None:
        """Note that waiting requests have left or were refused: perhaps nobody needs the model any more."""
        self._services.memory_manager.refresh()
        self._idle_timer.restart()

    def _is_idle(self) -> bool:
        return self.worker is not None and not self.active and not self.waiting

    def _unload_idle(self) -> None:
        self._services.background(self.unload("idle"), f"unload of {self.name}")

    def ask_to_drain(self, drain: bool) -> None:
        """Start no new jobs until the worker is unloaded; False takes that back."""
        if drain and self._state is State.READY:
            self._to(State.DRAINING)
        elif not drain and self._state is State.DRAINING:
            self._to(State.READY)

    # --- Lost and hung workers ----------------------------------------------------------------------------------------

    def _lost(self, worker: Worker) -> None:
        """Called by the worker when its process ended and nobody had asked for that."""
        if worker is not self.worker:
            return
        self._process = None
        if not self.quarantined:
            self.error = "the worker process ended unexpectedly"
        self._backoff.record_crash()
        self._services.metrics.worker_restarts_total.labels(self.name).inc()
        _log.error("pool.worker_lost", deployment=self.name, pid=worker.pid, error=self.error, failures=self.failures)
        self._idle_timer.stop()
        self.loader.end_soon(worker)
        if self.quarantined:
            self._replacement = self._services.background(self._replace(), f"replacement of {self.name}")
            self.changed.notify()
        else:
            self._to(State.EMPTY)  # the next job starts the next worker

    async def _replace(self) -> None:
        try:
            await self.ensure()
        except ApiError as error:
            _log.error("pool.rebuild_failed", deployment=self.name, error=error.message)

    def watch(self, now: float) -> None:
        """Measure, kill a worker that makes no progress, replace one that leaks. now: on the services' clock."""
        worker = self.worker
        if worker is None:
            return
        self._measure()
        policy = self._services.policy
        if now - worker.progress_at > policy.hang:
            self._to(State.QUARANTINED)
            self.error = f"the worker made no progress for {policy.hang:g} s; it is being replaced"
            _log.error("pool.worker_hangs", deployment=self.name, pid=worker.pid)
            worker.kill()
        elif self._is_idle() and self.recovery.has_leaked(self.memory_bytes):
            reason = "memory did not return to its baseline"
            self._services.background(self.unload(reason), f"unload of {self.name}")

    def _measure(self) -> None:
        if self.worker is not None:
            self.loader.measure(self.memory_bytes)
            self._services.metrics.worker_memory_bytes.labels(self.name).set(self.memory_bytes)

    async def close(self) -> None:
        """End the worker at the end of the pool, when no job is left."""
        if self._replacement is not None:
            self._replacement.cancel()
        self._idle_timer.stop()
        await self.unload("shutdown", even_busy=True)


def _load_error(name: str, failure: Failed, retry: float) -> ApiError:
    """What clients get for a load that failed. retry: seconds until the next one may begin."""
    if failure.kind == "out_of_memory":
        return OutOfMemory(f"There is no memory for {name}: {failure.message}", retry_after=max(5.0, retry))
    if failure.kind == "worker_lost":
        return WorkerLost(f"The worker of {name} was lost while it loaded: {failure.message}.", retry_after=retry)
    if failure.kind == "model_unavailable":
        return ModelUnavailable(failure.message, retry_after=retry)
    return ModelUnavailable(f"{name} could not be loaded; the server's log has the details.", retry_after=retry)
