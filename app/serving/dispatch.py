"""Brings the jobs of one deployment to its worker: admission, fair order, slots, and what each job cost.

Owns the queue and the running jobs. The worker comes from the supervisor; what a client sees is up to `reservation`.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from app.config.settings import LimitSettings
from app.errors import ApiError, InvalidRequest, Overloaded, internal_error
from app.metrics import Metrics
from app.serving.arrivals import Arrivals
from app.serving.live import LiveSessions
from app.serving.notifier import Notifier
from app.serving.pricing import Pricer
from app.serving.queue import Entry, FairQueue
from app.serving.shares import FairShares
from app.serving.supervisor import ModelSupervisor
from app.serving.unread import UnreadAnswers
from app.serving.worker import Worker, WorkerJob
from backends.frames import FrameError
from backends.interface import Done, Failed, Request

_log = structlog.get_logger("pool")

Waiting = Entry[WorkerJob]


class Dispatcher:
    """Queue and running jobs of one deployment.

    reserved_slots: requests that were admitted and do not run yet; arrivals: those of them that are not in the queue
    yet; fair: there are several owners, and none may take all of the queue or all slots; live: jobs that take no slot;
    unread: what the answers of all deployments hold.
    """

    def __init__(
        self,
        supervisor: ModelSupervisor,
        limits: LimitSettings,
        metrics: Metrics,
        clock: Callable[[], float],
        *,
        unread: UnreadAnswers,
        fair: bool = False,
    ) -> None:
        self.supervisor, self._limits, self._metrics, self._clock, self._fair = supervisor, limits, metrics, clock, fair
        self.name = supervisor.deployment.name
        self.pricer = Pricer()
        self.reserved_slots = FairShares(0)
        self.reserved_slots.fit(limits.queue_jobs, fair=fair)
        self.arrivals = Arrivals(supervisor, self._notify)
        self.live = LiveSessions(supervisor, limits, metrics, fair=fair)
        self.unread = unread
        self._last_used: float | None = None
        self._queue: FairQueue[WorkerJob] = FairQueue()
        self._active: dict[WorkerJob, Waiting] = {}
        self._freed = Notifier()
        self._dispatch_loop: asyncio.Task[None] | None = None
        self._closed: ApiError | None = None
        supervisor.attach(self)
        unread.when_read(self._freed.notify)

    # --- State ----------------------------------------------------------------------------------------------------

    @property
    def active(self) -> int:
        return len(self._active)

    @property
    def live_active(self) -> int:
        return self.live.active

    @property
    def waiting(self) -> int:
        return len(self._queue) + self.arrivals.count

    @property
    def last_used(self) -> float | None:
        """When a job ended last, seconds since the epoch."""
        return max((used for used in (self._last_used, self.live.last_used) if used is not None), default=None)

    def snapshot(self) -> dict[str, Any]:
        """What is held now: counts, owners of running jobs, and the worker, {} if there is none."""
        supervisor, worker = self.supervisor, self.supervisor.worker
        return {
            "reserved_slots": self.reserved_slots.held,
            "arriving": self.arrivals.count,
            "queued": len(self._queue),
            "active": self.active,
            "live": self.live.count,
            "accepted": sum(job.taken_up for job in self._active),
            "owners": sorted(entry.owner for entry in self._active.values()),
            "draining": supervisor.draining,
            "failures": supervisor.failures,
            "worker": {
                "pid": worker.pid,
                "jobs": worker.job_count,
                "working": worker.heartbeat.working or worker.heartbeat.active > 0,
                "steps": worker.heartbeat.steps,
                "idle_seconds": self._clock() - worker.progress_at,
            }
            if worker is not None
            else {},
        }

    @property
    def queued_seconds(self) -> float:
        """Seconds of work in the queue, at the prices of this moment."""
        return sum(self.pricer.price(e.request) for e in self._queue.entries() if e.request is not None)

    def slots_changed(self) -> None:
        """Look again whether waiting jobs can start: the worker has more slots now, or fewer."""
        self._freed.notify()

    # --- Admission ----------------------------------------------------------------------------------------------------

    def check(self, owner: str, price: float | None = None) -> None:
        """Raise Overloaded if one more job of this owner would wait too long. price: seconds, None: not known yet."""
        wait = self.predicted_wait(owner, self.pricer.typical if price is None else price)
        if price is None and not self.reserved_slots.has_room(owner, extra=max(0, self.slots - self.active)):
            yours = (
                f", {own} of them yours"
                if (own := self.reserved_slots.held_by(owner)) < self.reserved_slots.held
                else ""
            )
            raise self._overloaded(
                "queue_full", wait, f"{self.reserved_slots.held} requests wait for {self.name} already{yours}"
            )
        if not self.unread.may_begin(owner):
            text = "answers that you asked for and have not read fill the memory for them"
            raise self._overloaded("unread_answers", wait, text)
        if self.pricer.known and wait > self._limits.queue_seconds:
            raise self._overloaded("queue_seconds", wait, f"a request to {self.name} would wait about {wait:.0f} s")

    def predicted_wait(self, owner: str, price: float) -> float:
        """Predict the seconds until a new job would start: each slot takes the next job as soon as it is free, and an
        owner that has its share of slots waits for its own jobs only, as others do not wait for its."""
        now, slots = self._clock(), self.slots
        running = [(entry.owner, max(0.0, entry.price - (now - job.sent_at))) for job, entry in self._active.items()]
        free_at = sorted([left for _, left in running] + [0.0] * (slots - len(running)))
        may_run = self._may_run
        if self._has_its_share(owner):
            free_at, may_run, slots = sorted(left for one, left in running if one == owner), _nobody, slots - 1
        free_at = free_at[max(0, len(free_at) - slots) :]  # there were more slots when those began
        for before in self._queue.prices_before(owner, price, now, may_run):
            heapq.heapreplace(free_at, free_at[0] + before)
        return free_at[0]

    @property
    def slots(self) -> int:
        return self.supervisor.slots

    def _overloaded(self, reason: str, wait: float, text: str) -> Overloaded:
        self._metrics.refused_total.labels(reason).inc()
        return Overloaded(f"The server is at its limit: {text}. Please retry later.", retry_after=max(1.0, wait))

    # --- Jobs ---------------------------------------------------------------------------------------------------------

    def enqueue(self, owner: str, request: Request | None, price: float, request_id: str = "") -> Waiting:
        """Put a job into the queue. Its `granted` gives the job once a worker has it. Raises Draining.

        request: None for the backend's canary; price: predicted seconds; request_id: for logs.
        """
        if self._closed is not None:
            raise self._closed
        now = self._clock()
        granted = asyncio.get_running_loop().create_future()
        entry: Waiting = Entry(owner, price, now, now + self._limits.queue_seconds, granted, request, request_id)
        self._queue.push(entry)
        self._freed.notify()  # of another owner, perhaps, than those that may not run now
        self._notify()
        if self._dispatch_loop is None or self._dispatch_loop.done():
            self._dispatch_loop = asyncio.create_task(self._run_dispatch_loop(), name=f"dispatch of {self.name}")
        return entry

    def withdraw(self, entry: Waiting) -> None:
        """Take the job of a client that left out of the queue, or out of the worker at its next step."""
        if self._queue.remove(entry):
            self._notify()
            self.supervisor.queue_emptied()
            if self._dispatch_loop is not None and self.supervisor.load_is_pointless:
                self._dispatch_loop.cancel()
        if not entry.granted.done():
            entry.granted.cancel()
        elif not entry.granted.cancelled() and entry.granted.exception() is None:
            entry.granted.result().forget()
        for job, running in list(self._active.items()):
            if running is entry and self.supervisor.worker is not None:
                self.supervisor.worker.cancel(job)

    async def _run_dispatch_loop(self) -> None:
        try:
            await self._dispatch_jobs()
        except ApiError as error:
            self.fail_waiting(error)
        except Exception as error:
            _log.exception("pool.dispatch_failed", deployment=self.name)
            self.fail_waiting(ApiError(f"The queue of {self.name} failed: {type(error).__name__}."))

    async def _dispatch_jobs(self) -> None:
        while self._queue:
            began = self._clock()
            worker = await self.supervisor.ensure()
            self._queue.extend(self._clock() - began)
            if self.supervisor.draining:
                await self.supervisor.changed.wait()
                continue
            self._drop_expired()
            if self._queue and self.active >= self.slots:
                await self._freed.wait(min(entry.deadline for entry in self._queue.entries()) - self._clock())
            elif self._queue:
                await self._begin_next(worker)

    async def _begin_next(self, worker: Worker) -> None:
        """Start the next job of an owner that leaves a slot to others and reads its answers; if there is none, wait
        for a slot, another owner's job or a reader."""
        try:
            entry = self._queue.pop(self._clock(), self._may_run)
        except IndexError:
            await self._freed.wait(min(entry.deadline for entry in self._queue.entries()) - self._clock())
        else:
            self._begin(worker, entry)
            self._notify()

    def _may_run(self, owner: str) -> bool:
        """Whether the owner may run one more job."""
        return self.unread.may_begin(owner) and not self._has_its_share(owner)

    def _has_its_share(self, owner: str) -> bool:
        """Of several owners none gets the last slot too: jobs can run long."""
        if not self._fair or self.slots == 1:
            return False
        return sum(entry.owner == owner for entry in self._active.values()) >= self.slots - 1

    def _begin(self, worker: Worker, entry: Waiting) -> None:
        """Submit the job, which takes a slot until it has ended. Nothing was awaited since `ensure`."""
        if entry.granted.done():  # its client has left in this very moment
            return
        try:
            job = worker.submit(entry.request, entry.request_id)
        except FrameError as error:
            self._settle(entry, InvalidRequest(f"The request cannot be handed to the model's worker: {error}."))
        except Exception:
            _log.exception("pool.submit_failed", deployment=self.name)
            self._settle(entry, internal_error())  # the others in the queue have no part in it
        else:
            self._active[job] = entry
            job.when_ended(self._ended)
            job.on_unread = partial(self.unread.count, entry.owner)
            entry.granted.set_result(job)

    def _ended(self, job: WorkerJob) -> None:
        entry = self._active.pop(job)
        self._last_used = time.time()
        if entry.request is not None and isinstance(job.last, Done):
            self._record(entry.request, job)
        self._notify()
        self._freed.notify()
        self.supervisor.job_ended(job.last)

    def _record(self, request: Request, job: WorkerJob) -> None:
        self.pricer.record(request, self._clock() - job.sent_at)
        if self.pricer.real_time_factor is not None:
            self._metrics.real_time_factor.labels(self.name).set(self.pricer.real_time_factor)

    def _drop_expired(self) -> None:
        for entry in self._queue.expired(self._clock()):
            self._settle(entry, self._overloaded("expired", 1.0, f"the request waited too long for {self.name}"))
            self.supervisor.queue_emptied()
        self._notify()

    def fail_waiting(self, error: ApiError) -> None:
        """Refuse everything in the queue with `error`."""
        for entry in list(self._queue.entries()):
            self._queue.remove(entry)
            self._settle(entry, error)
        self._notify()
        self.supervisor.queue_emptied()

    @staticmethod
    def _settle(entry: Waiting, error: ApiError) -> None:
        if not entry.granted.done():
            entry.granted.set_exception(error)

    def _notify(self) -> None:
        self._metrics.jobs_active.labels(self.name).set(self.active)
        self._metrics.queue_depth.labels(self.name).set(self.waiting)

    # --- The end ------------------------------------------------------------------------------------------------------

    async def close(self, error: ApiError) -> None:
        """Refuse what waits and what comes, cut what runs."""
        self._closed = error
        self.fail_waiting(error)
        await self.arrivals.close(error)
        for job in list(self._active):
            job.take(Failed("draining", error.message))
        self.live.close(error)
        if self._dispatch_loop is not None:
            self._dispatch_loop.cancel()
            await asyncio.gather(self._dispatch_loop, return_exceptions=True)


def _nobody(owner: str) -> bool:
    return False
