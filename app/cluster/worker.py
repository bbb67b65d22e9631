"""All replicas of a deployment as the one worker that the dispatcher knows (`app.serving.worker.Worker`).

Owns the calls of running jobs: their events, their cancellation, and what a call that broke off means. How many slots
there are follows from the replicas' reports. Knows neither queue nor Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import structlog

from app.cluster.calls import SILENCE, CallFailed, Calls, Report
from app.cluster.wire import messages_in, pack
from app.serving.worker import WorkerJob
from backends import messages
from backends.interface import Capabilities, Done, Failed, Request
from backends.live import Feed, LiveRequest

_log = structlog.get_logger("cluster")

_LOST = Failed("worker_lost", "the machine or the process that ran this job was lost in the middle of it")
_CANCELLED = Failed("cancelled", "the job was cancelled")
_NO_LIVE = Failed("invalid_input", "Live transcription is not served over a cluster; use a gateway of its own for it.")


class ReplicasWorker:
    """gateway: our name at the replicas; reports: the newest of each replica."""

    def __init__(self, name: str, calls: Calls, gateway: str, first: Report, clock: Callable[[], float]) -> None:
        self._name, self._calls, self._gateway, self._clock = name, calls, gateway, clock
        self._numbers = itertools.count(1)
        self._jobs: dict[WorkerJob, asyncio.Task[None]] = {}
        self.load_seconds = 0.0
        self.lost = False
        self.capabilities: Capabilities = _capabilities(first.loaded)
        self.reports: list[Report] = []
        self.update([first])

    # --- State -------------------------------------------------------------------------------------------------------

    def update(self, reports: Sequence[Report]) -> None:
        """Take the newest report of every replica: slots are what they have together, less what other gateways use."""
        self.reports = list(reports)
        newest = next((report.loaded for report in reports if report.loaded), b"")
        known = _capabilities(newest) if newest else self.capabilities
        others = sum(
            count for report in reports for gateway, count in report.running.items() if gateway != self._gateway
        )
        slots = max(1, sum(report.slots for report in reports) - others)
        self.capabilities = replace(known, max_batch=slots, max_live=0)

    @property
    def pid(self) -> int:
        return 0  # there are several, on other machines

    @property
    def heartbeat(self) -> messages.Heartbeat:
        memory = sum(report.memory_bytes for report in self.reports)
        return messages.Heartbeat(0, bool(self._jobs), len(self._jobs), 0, memory, memory)

    @property
    def progress_at(self) -> float:
        return self._clock()  # replicas watch their workers themselves

    @property
    def job_count(self) -> int:
        return len(self._jobs)

    # --- Jobs --------------------------------------------------------------------------------------------------------

    def submit(self, request: Request | LiveRequest | None, request_id: str = "") -> WorkerJob:
        job = WorkerJob(next(self._numbers), self._clock())
        if isinstance(request, LiveRequest):
            job.end(_NO_LIVE)
            return job
        frame, arrays = pack(request)
        stream = self._calls.run(self._gateway, request_id, frame, arrays)
        self._jobs[job] = asyncio.create_task(self._follow(job, stream, request_id), name=f"call {request_id}")
        return job

    async def _follow(self, job: WorkerJob, stream: Any, request_id: str) -> None:
        """Pass the reports of one job on until its stream ends, however that comes."""
        why = _LOST
        try:
            async with contextlib.aclosing(stream):
                while job.last is None:
                    async with asyncio.timeout(SILENCE):
                        data = await anext(stream)
                    for message in messages_in(data):
                        _take(job, message)
        except asyncio.CancelledError:
            why = _CANCELLED
        except (CallFailed, StopAsyncIteration, TimeoutError) as error:
            text = str(error) or ("silence" if isinstance(error, TimeoutError) else "the stream ended")
            _log.warning("cluster.call_lost", deployment=self._name, request_id=request_id, error=text)
        except Exception:
            _log.exception("cluster.call_failed", deployment=self._name, request_id=request_id)
        finally:
            self._jobs.pop(job, None)
            job.end(why)

    def cancel(self, job: WorkerJob) -> None:
        if (task := self._jobs.get(job)) is not None:
            task.cancel()

    def feed(self, job: WorkerJob, feed: Feed) -> None:
        """No live job runs over a cluster, so there is none to feed."""

    def limit_batch(self, jobs: int) -> None:
        """Replicas limit their own batches."""

    def kill(self) -> None:
        for task in self._jobs.values():
            task.cancel()

    async def close(self) -> None:
        """Forget the replicas, which go on: others may use them."""
        self.lost = True
        self.kill()
        if self._jobs:
            await asyncio.wait(set(self._jobs.values()))


def _take(job: WorkerJob, message: messages.Message) -> None:
    if isinstance(message, messages.JobStarted):
        job.take_up(message.notes)
    elif isinstance(message, messages.JobEvent):
        event = message.event
        job.take(event)
        if isinstance(event, Done | Failed):
            job.started.set()


def _capabilities(loaded: bytes) -> Capabilities:
    """Raises CallFailed for a replica that has no model: it lost its worker and starts the next one."""
    for message in messages_in(loaded):
        if isinstance(message, messages.Loaded):
            return message.capabilities
    raise CallFailed("the replica has no model loaded just now")
