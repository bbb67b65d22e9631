"""A request's slot in the queue and its running job, as the routes see them (`interfaces.Reservation`).

Owns what happens to one request: pricing, waiting, the retries after running out of memory, and the cancel when its
client leaves.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import cast, overload

import structlog

from app.config.deployments import Deployment
from app.errors import ApiError, Draining, InvalidRequest, from_failure
from app.serving.dispatch import Dispatcher, Waiting
from app.serving.live import LiveJob
from app.serving.worker import WorkerJob
from backends.frames import FrameError
from backends.interface import Capabilities, Done, Event, Failed, InvalidInput, Request
from backends.live import Feed, LiveEvent, LiveRequest
from backends.registry import check_request

_log = structlog.get_logger("pool")


class PoolReservation:
    """A slot in one dispatcher's queue, or a place for a live job, then a job of its worker. Give it back with `leave`.

    live: it has a place for a live job.
    """

    def __init__(
        self, dispatcher: Dispatcher, *, owner: str, request_id: str, fallback_from: str | None, live: bool = False
    ) -> None:
        """Raises Overloaded, or InvalidRequest, where a live job is not possible."""
        self.deployment: Deployment = dispatcher.supervisor.deployment
        self.fallback_from = fallback_from
        self.capabilities: Capabilities | None = None
        self.queue_seconds = 0.0
        self.notes: tuple[str, ...] = ()
        self.request_id, self.owner, self.live = request_id, owner, False
        self._dispatcher = dispatcher
        self._admitted_at = time.monotonic()
        self._entry: Waiting | None = None
        self._request: Request | None = None
        self._price = dispatcher.pricer.typical  # predicted seconds
        self._holds_slot = False
        self._is_arriving = False
        self._live_job: LiveJob | None = None
        self._held = 0  # bytes of the answer's body
        self._retries = 0
        self._sent_again = False  # after the worker was lost
        if live:
            self._take_live_place()
        else:
            self._holds_slot = True
            dispatcher.reserved_slots.take(owner)

    async def prepare(self) -> None:
        """Load the model before the request is read, while another deployment could still answer. Raises ApiError."""
        self._is_arriving = True
        await self._dispatcher.arrivals.prepare()

    @overload
    async def run(self, request: Request) -> AsyncIterator[Event]: ...

    @overload
    async def run(self, request: LiveRequest) -> AsyncIterator[LiveEvent]: ...

    async def run(self, request: Request | LiveRequest) -> AsyncIterator[Event] | AsyncIterator[LiveEvent]:
        """Price the request, wait for a worker to accept it and return its events; iterate once.

        Raises ApiError, at once where the settings alone are wrong.
        """
        if isinstance(request, LiveRequest):
            return await self._run_live(request)
        self._check(request)
        self._price = self._dispatcher.pricer.price(request)
        self._dispatcher.check(self.owner, self._price)
        self._request = request
        return await self._started()

    def _check(self, request: Request) -> None:
        try:
            check_request(self.deployment.info, self.deployment.options, request)
        except InvalidInput as error:
            raise self._error(error.to_event()) from error

    async def run_canary(self) -> AsyncIterator[Event]:
        """Run the backend's own small request instead and return its events."""
        return await self._started()

    # --- Live jobs ----------------------------------------------------------------------------------------------------

    def _take_live_place(self) -> None:
        known = self._dispatcher.supervisor.capabilities
        if not self.deployment.info.live or (known is not None and not known.live):
            raise self._no_live_audio()
        self._dispatcher.live.take(self.owner)
        self.live = True

    def _no_live_audio(self) -> InvalidRequest:
        text = f"{self.deployment.name} cannot transcribe live audio."
        return InvalidRequest(text, param="model", code="OperationNotSupported")

    async def _run_live(self, request: LiveRequest) -> AsyncIterator[LiveEvent]:
        """Load the model and start the job beside the queue; once more if the worker was gone when the job came."""
        if not self.live:
            self._take_live_place()
            self.release_slot()
        job = await self._started_live(request)
        if self._never_begun(job):
            job = await self._started_live(request)
        if isinstance(job.last, Failed):
            raise self._error(job.last)
        self.capabilities = self._dispatcher.supervisor.capabilities
        self.queue_seconds = time.monotonic() - self._admitted_at
        return self._live_events(job)

    async def _started_live(self, request: LiveRequest) -> WorkerJob:
        """A job that its worker took up, or that failed."""
        self._is_arriving = True
        worker = await self._dispatcher.arrivals.prepare()
        while self._dispatcher.supervisor.draining:
            await self._dispatcher.supervisor.changed.wait()
            worker = await self._dispatcher.supervisor.ensure()
        if not worker.capabilities.live:
            raise self._no_live_audio()
        try:
            self._live_job = self._dispatcher.live.begin(worker, request, self.request_id)
        except FrameError as error:
            raise InvalidRequest(f"The request cannot be handed to the model's worker: {error}.") from error
        self._arrive()
        await self._live_job.job.started.wait()
        return self._live_job.job

    async def _live_events(self, job: WorkerJob) -> AsyncIterator[LiveEvent]:
        while not isinstance(event := await job.next_event(), Done):
            if isinstance(event, Failed):
                raise self._error(event)
            yield cast(LiveEvent, event)

    def feed(self, feed: Feed) -> None:
        """Give the live job what comes next. Raises Overloaded where too much waits to be heard already."""
        if self._live_job is not None:
            self._live_job.feed(feed)

    async def wait_for_room(self) -> None:
        """Return when the live job can take more, or is over."""
        live = self._live_job
        while live is not None and not live.has_room and not live.job.ended.is_set():
            await live.room.wait()

    # --- Jobs of the queue --------------------------------------------------------------------------------------------

    async def _started(self) -> AsyncIterator[Event]:
        job = await self._accepted()
        # Of the last worker that loaded: a quick job may be over, and its worker evicted, before anyone looks here.
        self.capabilities = self._dispatcher.supervisor.capabilities
        if self.capabilities is None:
            raise self._error(Failed("worker_lost", "the worker has ended"))
        self.queue_seconds, self.notes = time.monotonic() - self._admitted_at, job.notes
        return self._events(job)

    async def _events(self, job: WorkerJob) -> AsyncIterator[Event]:
        """The events of the job, or of the one that replaces it while nothing was sent."""
        while True:
            event = await job.next_event()
            if isinstance(event, Failed):
                if not await self._may_retry(job):
                    raise self._error(event)
                job = await self._accepted()
                continue
            yield cast(Event, event)
            if isinstance(event, Done):
                return

    async def _accepted(self) -> WorkerJob:
        """A job that its worker took up. One that ran out of memory at its start is tried again with less at once."""
        while True:
            self._entry = self._dispatcher.enqueue(self.owner, self._request, self._price, self.request_id)
            self._arrive()
            job = await self._entry.granted
            self.release_slot()
            await job.started.wait()
            if not isinstance(job.last, Failed):
                return job
            if not await self._may_retry(job):
                raise self._error(job.last)

    async def _may_retry(self, job: WorkerJob) -> bool:
        """Whether to try again, which is for running out of memory and for a worker that was gone when the job came.

        Only while the client has seen nothing of the answer.
        """
        last = job.last
        if self._never_begun(job):
            self._sent_again = True
            return True
        if not isinstance(last, Failed) or last.kind != "out_of_memory" or job.has_output:
            return False
        self._retries += 1
        return await self._dispatcher.supervisor.recovery.recover(self._retries)

    def _never_begun(self, job: WorkerJob) -> bool:
        """Whether the worker ended before it accepted the job: the job is not to blame, but is sent again only once.

        A worker that hung over the job and was killed for that is another matter.
        """
        if self._dispatcher.supervisor.quarantined:
            return False
        lost = isinstance(job.last, Failed) and job.last.kind == "worker_lost"
        return lost and not job.taken_up and not job.has_output and not self._sent_again

    def _error(self, failure: Failed) -> ApiError:
        _log.warning(
            "pool.job_failed",
            deployment=self.deployment.name,
            request_id=self.request_id,
            kind=failure.kind,
            error=failure.message,
        )
        if failure.kind == "draining":
            return Draining(failure.message, retry_after=5.0)
        return from_failure(failure)

    def release_slot(self) -> None:
        if self._holds_slot:
            self._holds_slot = False
            self._dispatcher.reserved_slots.give_back(self.owner)

    def _arrive(self) -> None:
        if self._is_arriving:
            self._is_arriving = False
            self._dispatcher.arrivals.arrived()

    def hold(self, size: int) -> None:
        """Count a whole answer of `size` bytes as unread until `leave`."""
        self._held += size
        self._dispatcher.unread.count(self.owner, size)

    def leave(self) -> None:
        """Give everything back; a job that is not over is cancelled."""
        self._dispatcher.unread.count(self.owner, -self._held)
        self._held = 0
        self.release_slot()
        self._arrive()
        if self._entry is not None:
            self._dispatcher.withdraw(self._entry)
        if self.live:
            self.live = False
            self._dispatcher.live.give_back(self.owner)
            if self._live_job is not None:
                self._live_job.cancel()
