"""A request's slot in the queue and its running job, as the routes see them (`interfaces.Reservation`).

Owns what happens to one request: pricing, waiting, the retries after running out of memory, and the cancel when its
client leaves.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import structlog

from app.config.deployments import Deployment
from app.errors import ApiError, Draining, from_failure
from app.serving.dispatch import Dispatcher, Waiting
from app.serving.worker import WorkerJob
from backends.interface import Capabilities, Done, Event, Failed, InvalidInput, Request
from backends.registry import check_request

_log = structlog.get_logger("pool")


class PoolReservation:
    """A slot in one dispatcher's queue, then a job of its worker. Give it back with `leave`."""

    def __init__(self, dispatcher: Dispatcher, *, owner: str, request_id: str, fallback_from: str | None) -> None:
        self.deployment: Deployment = dispatcher.supervisor.deployment
        self.fallback_from = fallback_from
        self.capabilities: Capabilities | None = None
        self.queue_seconds = 0.0
        self.request_id = request_id
        self._dispatcher, self._owner = dispatcher, owner
        self._admitted_at = time.monotonic()
        self._entry: Waiting | None = None
        self._request: Request | None = None
        self._price = dispatcher.pricer.typical  # predicted seconds
        self._holds_slot = True
        self._is_arriving = False
        self._retries = 0
        self._sent_again = False  # after the worker was lost
        dispatcher.reserved_slots.take(owner)

    async def prepare(self) -> None:
        """Load the model before the request is read, while another deployment could still answer. Raises ApiError."""
        self._is_arriving = True
        await self._dispatcher.prepare()

    async def run(self, request: Request) -> AsyncIterator[Event]:
        """Price the request, wait for a worker to accept it and return its events; iterate once.

        Raises ApiError, at once where the settings alone are wrong.
        """
        self._check(request)
        self._price = self._dispatcher.pricer.price(request)
        self._dispatcher.check(self._owner, self._price)
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

    async def _started(self) -> AsyncIterator[Event]:
        job = await self._accepted()
        # Of the last worker that loaded: a quick job may be over, and its worker evicted, before anyone looks here.
        self.capabilities = self._dispatcher.supervisor.capabilities
        if self.capabilities is None:
            raise self._error(Failed("worker_lost", "the worker has ended"))
        self.queue_seconds = time.monotonic() - self._admitted_at
        return self._events(job)

    async def _events(self, job: WorkerJob) -> AsyncIterator[Event]:
        """The events of the job, or of the one that replaces it while nothing was sent."""
        while True:
            event = await job.events.get()
            if isinstance(event, Failed):
                if not await self._may_retry(job):
                    raise self._error(event)
                job = await self._accepted()
                continue
            yield event
            if isinstance(event, Done):
                return

    async def _accepted(self) -> WorkerJob:
        """A job that its worker took up. One that ran out of memory at its start is tried again with less at once."""
        while True:
            self._entry = self._dispatcher.enqueue(self._owner, self._request, self._price, self.request_id)
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
        return await self._dispatcher.recover_from_oom(self._retries)

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
            self._dispatcher.reserved_slots.give_back(self._owner)

    def _arrive(self) -> None:
        if self._is_arriving:
            self._is_arriving = False
            self._dispatcher.arrived()

    def leave(self) -> None:
        """Give everything back; a job that is not over is cancelled."""
        self.release_slot()
        self._arrive()
        if self._entry is not None:
            self._dispatcher.withdraw(self._entry)
