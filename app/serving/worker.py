"""A loaded model as the pool sees it: jobs go in, events come out, and a callback reports that it is lost.

`Worker` is the small protocol that the pool relies on; `ProcessWorker` implements it over a `Channel`. Knows nothing of
queues, prices and memory budgets.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from app.serving.channel import Channel
from backends import frames, messages
from backends.interface import AudioChunk, Capabilities, Done, Event, Failed, Request, Segment, TextDelta
from backends.live import Feed, LiveEvent, LiveRequest

_log = structlog.get_logger("worker")


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """All that is needed to start a worker.

    python: another interpreter, "" = ours; load_stall: seconds that the load may take without progress.
    """

    deployment: str
    load: messages.LoadModel
    python: str = ""
    load_stall: float = 600.0


class LoadError(Exception):
    """The worker could not load its model; `failure` says why."""

    def __init__(self, failure: Failed) -> None:
        super().__init__(failure.message)
        self.failure = failure


class WorkerJob:
    """One job of a worker. `events` ends with Done or Failed; `ended` is set when its slot is free.

    notes: of the backend, once it has accepted the job; unread: bytes of sound in `events`; on_unread: called with each
    change of it; on_progress: called with the fields of each LiveProgress of a live job.
    """

    def __init__(self, number: int, now: float) -> None:
        self.number = number
        self.events: asyncio.Queue[Event | LiveEvent] = asyncio.Queue()
        self.started = asyncio.Event()  # accepted, or over
        self.ended = asyncio.Event()
        self.last: Done | Failed | None = None
        self.has_output = False
        self.taken_up = False  # by the worker
        self.notes: tuple[str, ...] = ()
        self.sent_at = now
        self.unread = 0
        self.on_unread: Callable[[int], None] | None = None
        self.on_progress: Callable[[int, float, float], None] | None = None
        self._callbacks: list[Callable[[WorkerJob], None]] = []

    def when_ended(self, callback: Callable[[WorkerJob], None]) -> None:
        """Call `callback` once the slot is free, at once if it is already."""
        if self.ended.is_set():
            callback(self)
        else:
            self._callbacks.append(callback)

    def take_up(self, notes: tuple[str, ...]) -> None:
        """The backend has accepted the job."""
        self.taken_up, self.notes = True, notes
        self.started.set()

    def take(self, event: Event | LiveEvent) -> None:
        """Pass an event of the worker on to whoever reads `events`."""
        if isinstance(event, Done | Failed):
            self.last = event
        elif isinstance(event, TextDelta | Segment | AudioChunk):
            self.has_output = True
        self._count(_sound_bytes(event))
        self.events.put_nowait(event)

    async def next_event(self) -> Event | LiveEvent:
        """Wait for the next event and take it out."""
        event = await self.events.get()
        self._count(-_sound_bytes(event))
        return event

    def forget(self) -> None:
        """Count what is unread, or still comes, no longer: nobody reads on."""
        self._count(-self.unread)
        self.on_unread = None

    def _count(self, change: int) -> None:
        self.unread += change
        if change and self.on_unread is not None:
            self.on_unread(change)

    def end(self, why: Failed) -> None:
        """Free the slot, once. why: the failure reported if the job had no last event."""
        if self.ended.is_set():
            return
        if self.last is None:
            self.take(why)
        self.started.set()
        self.ended.set()
        for callback in self._callbacks:
            callback(self)


def _sound_bytes(event: Event | LiveEvent) -> int:
    return event.samples.nbytes if isinstance(event, AudioChunk) else 0


class Worker(Protocol):
    """A worker with its model loaded."""

    capabilities: Capabilities
    load_seconds: float

    @property
    def lost(self) -> bool:
        """Its process has ended, or will take no more jobs."""

    @property
    def pid(self) -> int: ...

    @property
    def heartbeat(self) -> messages.Heartbeat: ...

    @property
    def progress_at(self) -> float:
        """When the worker last ended a step or was idle, on the event loop's clock."""

    @property
    def job_count(self) -> int:
        """Jobs that were submitted and have not ended."""

    def submit(self, request: Request | LiveRequest | None, request_id: str = "") -> WorkerJob:
        """Send a job without waiting; None is the canary. request_id: for the logs of a worker on another machine.

        Raises FrameError for a request that cannot be encoded; a lost worker shows in the job's events.
        """

    def feed(self, job: WorkerJob, feed: Feed) -> None:
        """Send what a live job gets next, in order, without waiting; dropped if the job is over."""

    def cancel(self, job: WorkerJob) -> None:
        """Send the cancel; returns before the worker confirms it by ending the job."""

    def limit_batch(self, jobs: int) -> None: ...

    def kill(self) -> None: ...

    async def close(self) -> None:
        """Unload; returns when the process is gone, and with it all its memory."""


Spawn = Callable[[WorkerSpec, Callable[["Worker"], None]], Awaitable[Worker]]
"""Start a worker and load its model; the callback reports an end that nobody asked for. Raises LoadError."""

_LOST = Failed("worker_lost", "the worker process of this model ended in the middle of the job; it is being restarted")
_CANCELLED = Failed("cancelled", "the job was cancelled")
_CLOSE_GRACE_SECONDS = 5.0


class ProcessWorker:
    """A worker in a child process."""

    def __init__(self, spec: WorkerSpec, channel: Channel, on_lost: Callable[[Worker], None]) -> None:
        self._spec, self._channel, self._on_lost = spec, channel, on_lost
        self._numbers = itertools.count(1)
        self._jobs: dict[int, WorkerJob] = {}
        self._sends: set[asyncio.Task[None]] = set()
        self._clock = asyncio.get_running_loop().time
        self._loaded: asyncio.Future[messages.Loaded] = asyncio.get_running_loop().create_future()
        self._closing = False
        self.heartbeat = messages.Heartbeat(0, True, 0, 0, 0, 0)
        self.progress_at = self._clock()
        self._reader = asyncio.create_task(self._read(), name=f"reports of {spec.deployment}")

    @classmethod
    async def start(cls, spec: WorkerSpec, on_lost: Callable[[Worker], None]) -> ProcessWorker:
        """Spawn, load, warm up. Raises LoadError; leaves no process behind if it does or is cancelled."""
        threads = spec.load.placement.threads
        try:
            channel = await Channel.open(spec.deployment, python=spec.python, threads=threads)
        except OSError as error:
            python = spec.python or "the interpreter"
            raise LoadError(Failed("model_unavailable", f"{python} cannot be started: {error}")) from error
        worker = cls(spec, channel, on_lost)
        try:
            await worker._send(frames.encode(spec.load))
            loaded = await worker._load()
        except BaseException:
            worker.kill()
            await worker.close()
            raise
        worker.load_seconds = loaded.load_seconds + loaded.warm_seconds
        return worker

    async def _load(self) -> messages.Loaded:
        """Wait for the worker's report of its loaded model. Raises LoadError, also after too long without progress."""
        limit = self._spec.load_stall
        self.progress_at = self._clock()
        while not self._loaded.done():
            left = self.progress_at + limit - self._clock()
            if left <= 0:
                text = f"loading made no progress for {limit:g} s, which is the limit (limits.load_timeout)"
                raise LoadError(
                    Failed("model_unavailable", f"The model of {self._spec.deployment} cannot be loaded: {text}.")
                )
            await asyncio.wait({self._loaded}, timeout=left)
        return self._loaded.result()

    capabilities: Capabilities
    load_seconds: float

    @property
    def lost(self) -> bool:
        return self._reader.done()

    @property
    def pid(self) -> int:
        return self._channel.pid

    @property
    def _is_loading(self) -> bool:
        return not self._loaded.done()

    @property
    def job_count(self) -> int:
        return len(self._jobs)

    def submit(self, request: Request | LiveRequest | None, request_id: str = "") -> WorkerJob:
        job = WorkerJob(next(self._numbers), self._clock())
        if self.lost:
            job.end(_LOST)
            return job
        command: messages.Command
        command = messages.StartCanary(job.number) if request is None else messages.StartJob(job.number, request)
        frame = frames.encode(command)  # raises FrameError before anything is booked
        self._jobs[job.number] = job
        self._send_soon(frame)
        return job

    def feed(self, job: WorkerJob, feed: Feed) -> None:
        if job.last is None:
            self._send_soon(frames.encode(messages.FeedJob(job.number, feed)))

    def cancel(self, job: WorkerJob) -> None:
        if not job.ended.is_set():
            self._send_soon(frames.encode(messages.CancelJob(job.number)))

    def limit_batch(self, jobs: int) -> None:
        self._send_soon(frames.encode(messages.LimitBatch(jobs)))

    def kill(self) -> None:
        self._channel.kill()

    async def close(self) -> None:
        self._closing = True
        await self._channel.close(_CLOSE_GRACE_SECONDS)
        await self._reader
        if self._sends:
            await asyncio.wait(self._sends)
        if self._loaded.done() and not self._loaded.cancelled():
            self._loaded.exception()  # a load error that nobody waits for any more is no surprise

    async def _send(self, frame: bytes) -> None:
        """Send an encoded command. A worker that is gone is noticed by the reader, which ends all jobs."""
        try:
            await self._channel.send(frame)
        except (ConnectionError, RuntimeError) as error:
            _log.debug("worker.gone", deployment=self._spec.deployment, error=str(error))

    def _send_soon(self, frame: bytes) -> None:
        """Send in the background; tasks run in the order in which they were made, and so are frames sent."""
        task = asyncio.create_task(self._send(frame))
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)

    async def _read(self) -> None:
        async for report in self._channel.reports():
            self._take(report)
        self._lose()

    def _take(self, report: messages.Report) -> None:
        match report:
            case messages.JobEvent(number, event) if number in self._jobs:
                self._jobs[number].take(event)
                if isinstance(event, Done | Failed):  # the worker frees the slot before it sends the last event
                    self._jobs.pop(number).end(_CANCELLED)
            case messages.LiveProgress(number, feeds, seconds, spent) if number in self._jobs:
                if (tell := self._jobs[number].on_progress) is not None:
                    tell(feeds, seconds, spent)
            case messages.JobStarted(number, notes) if number in self._jobs:
                self._jobs[number].take_up(notes)
            case messages.JobEnded(number) if number in self._jobs:
                self._jobs.pop(number).end(_CANCELLED)
            case messages.Heartbeat():
                if report.steps != self.heartbeat.steps or not (report.working or self._is_loading):
                    self.progress_at = self._clock()
                self.heartbeat = report
            case messages.DetailChanged() if self._is_loading:
                self.progress_at = self._clock()
            case messages.DetailChanged(detail):
                self.capabilities = replace(self.capabilities, detail=detail)
            case messages.Loaded() if not self._loaded.done():
                self.capabilities = report.capabilities
                self._loaded.set_result(report)
            case messages.LoadFailed(failure) if not self._loaded.done():
                self._loaded.set_exception(LoadError(failure))

    def _lose(self) -> None:
        """End the load and all jobs: the stream of reports has ended."""
        self._channel.kill()
        if not self._loaded.done():
            self._loaded.set_exception(
                LoadError(Failed("worker_lost", "the worker process ended while it loaded the model"))
            )
        while self._jobs:
            self._jobs.popitem()[1].end(_LOST)
        if not self._closing:
            self._on_lost(self)
