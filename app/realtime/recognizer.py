"""The live jobs of one session: the audio goes to them at their rate, what they tell comes back on one time line.

Owns the wait for room in the model's process, which is what slows a client down that sends faster than it can be
followed, and the change to another deployment while turns of the last are still being written. Knows no event of the
realtime protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import structlog

from app.config.deployments import Deployment
from app.errors import ApiError, WorkerLost, internal_error
from app.realtime.formats import AudioFormat
from app.realtime.outputs import Audio
from app.realtime.resampling import Stream
from app.serving.interfaces import Pool, Reservation
from backends.interface import ASR_SAMPLE_RATE, Samples
from backends.live import (
    LiveAudio,
    LiveClear,
    LiveCommit,
    LiveEnd,
    LiveEvent,
    LiveRequest,
    LiveSettings,
    TurnCommitted,
    TurnStarted,
    TurnStopped,
)

_log = structlog.get_logger("gateway")

_PIECE_SECONDS = 0.5  # resampled at a time, about a millisecond's work, after which other connections have their turn
_RETRY_SECONDS = 5.0  # after a job has failed until audio may begin another
_Waiting = Audio | LiveCommit | LiveClear | LiveSettings | LiveEnd


class Recognizer:
    """What one session is recognized by. on_event: called with each event; on_lost: with the error that ended a job.

    Turns and times of the events count over all jobs of the session.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        owner: str,
        request_id: str,
        most_bytes: int,
        on_event: Callable[[LiveEvent], None],
        on_lost: Callable[[ApiError], None],
    ) -> None:
        self._pool, self._owner, self._request_id = pool, owner, request_id
        self._most_bytes, self._on_event, self._on_lost = most_bytes, on_event, on_lost
        self._jobs: list[_LiveJob] = []  # the last one is fed
        self._turns = itertools.count()
        self.seconds = 0.0  # of audio that was given to all jobs so far
        self._last_error: ApiError | None = None
        self._failed = ""  # name of the deployment that gave it
        self._retry_at = 0.0  # when that one may be tried again, on the loop's clock

    def feed(
        self, deployment: Callable[[], Deployment], request: LiveRequest, feed: Audio | LiveCommit | LiveClear
    ) -> None:
        """Give what comes next, in order. The first begins a job. Raises ApiError where the deployment is not there."""
        job = self._jobs[-1] if self._jobs and self._jobs[-1].takes else None
        wanted = deployment() if job is None else job.deployment
        if job is None and wanted.name == self._failed and asyncio.get_running_loop().time() < self._retry_at:
            self._refuse(feed)
        else:
            (job or self._begin(wanted, request)).put(feed)
        if isinstance(feed, Audio):
            self.seconds += feed.format.seconds(len(feed.data))

    def _refuse(self, feed: Audio | LiveCommit | LiveClear) -> None:
        """Shortly after a failure: audio is dropped, what wants an answer gets the same error again."""
        if not isinstance(feed, Audio) and self._last_error is not None:
            self._on_lost(self._last_error)

    def configure(self, deployment: Deployment, request: LiveRequest) -> None:
        """From here on these settings count. Another deployment takes over with the next audio."""
        if not (self._jobs and self._jobs[-1].takes):
            return
        if self._jobs[-1].deployment.name == deployment.name:
            self._jobs[-1].configure(request)
        else:
            self._jobs[-1].end()

    def start(self, deployment: Deployment, request: LiveRequest) -> None:
        """Begin a job before there is audio, so that its model is loaded when some comes."""
        if not self._jobs:
            self._begin(deployment, request)

    async def check_room(self, deployment: Deployment) -> None:
        """Raises Overloaded where a job could not be served in real time now, or another ApiError. Begins none."""
        async with self._pool.admit(deployment, owner=self._owner, request_id=self._request_id, live=True):
            return

    async def started(self, seconds: float) -> None:
        """Wait until the job runs, but not longer than that. Raises the ApiError that kept it from running."""
        job = self._jobs[-1]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(job.running.wait(), seconds)
        if job.error is not None:
            raise job.error

    async def room(self) -> None:
        """Return once what waits here is less than `most_bytes`."""
        while self._jobs and self._jobs[-1].takes and self._jobs[-1].waiting_bytes > self._most_bytes:
            await self._jobs[-1].drained()

    async def close(self) -> None:
        """End all jobs; returns when they have let go of the model."""
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            job.task.cancel()
        await asyncio.gather(*(job.task for job in jobs), return_exceptions=True)

    def _begin(self, deployment: Deployment, request: LiveRequest) -> _LiveJob:
        admitted = self._pool.admit(deployment, owner=self._owner, request_id=self._request_id, live=True)
        job = _LiveJob(deployment, request, self.seconds, self._turns)
        job.task = asyncio.create_task(self._run(job, admitted), name="live job")
        self._jobs.append(job)
        return job

    async def _run(self, job: _LiveJob, admitted: AbstractAsyncContextManager[Reservation]) -> None:
        """The whole life of one job."""
        try:
            await self._serve(job, admitted)
        except ApiError as error:
            job.error = error
        except asyncio.CancelledError:
            if job.error is None:
                raise
        except Exception as error:
            _log.error("internal_error", request_id=self._request_id, exc_info=error)
            job.error = internal_error()
        finally:
            job.over = True
            job.running.set()
            job.notify()
            if job in self._jobs:
                self._jobs.remove(job)
        if job.error is not None:
            self._report(job, job.error)

    async def _serve(self, job: _LiveJob, admitted: AbstractAsyncContextManager[Reservation]) -> None:
        async with AsyncExitStack() as stack:
            reservation = await stack.enter_async_context(admitted)
            events = await reservation.run(job.request)
            feeding = asyncio.create_task(job.feed_to(reservation), name="live feed")
            stack.push_async_callback(_end, feeding)
            job.running.set()
            async for event in events:
                self._on_event(job.on_session_time(event))
        if not job.ends:
            raise WorkerLost("The recognizer has ended in the middle of the session.")

    def _report(self, job: _LiveJob, error: ApiError) -> None:
        self._last_error, self._failed = error, job.deployment.name
        self._retry_at = asyncio.get_running_loop().time() + _RETRY_SECONDS
        self._on_lost(error)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class _LiveJob:
    """One live job, and what waits to be fed to it."""

    def __init__(self, deployment: Deployment, request: LiveRequest, offset: float, turns: Iterator[int]) -> None:
        """offset: seconds of the session before its first audio; turns: numbers for its turns."""
        self.deployment, self.request, self._offset = deployment, request, offset
        self.task: asyncio.Task[None]
        self.running = asyncio.Event()
        self.error: ApiError | None = None
        self.over = self.ends = False
        self.waiting_bytes = 0
        self._waiting: deque[_Waiting] = deque()
        self._changed = asyncio.Event()
        self._drained = asyncio.Event()
        self._numbers: dict[int, int] = {}
        self._turns = turns
        self._stream: Stream | None = None
        self._format: AudioFormat | None = None

    @property
    def takes(self) -> bool:
        return not (self.over or self.ends)

    def put(self, feed: _Waiting) -> None:
        """Queue a feed; audio joins what waits already."""
        if isinstance(feed, Audio):
            self.waiting_bytes += len(feed.data)
        self._waiting.append(feed)
        self._changed.set()

    def configure(self, request: LiveRequest) -> None:
        if request != self.request:
            self.request = request
            self.put(LiveSettings(request))

    def end(self) -> None:
        """No more audio; what was committed is finished."""
        self.ends = True
        self.put(LiveEnd())

    def notify(self) -> None:
        self._drained.set()

    async def drained(self) -> None:
        """Some of what waited has gone, or the job is over."""
        self._drained.clear()
        if not self.over:
            await self._drained.wait()

    async def feed_to(self, reservation: Reservation) -> None:
        """Hand on what comes, as fast as the model takes it."""
        try:
            await self._feed_to(reservation)
        except ApiError as error:
            self.error = error
            self.task.cancel()

    async def _feed_to(self, reservation: Reservation) -> None:
        while True:
            while self._waiting:
                feed = self._waiting.popleft()
                if isinstance(feed, Audio):
                    await self._feed_audio(reservation, self._joined(feed))
                else:
                    if not isinstance(feed, LiveSettings):
                        await self._flush(reservation)
                    reservation.feed(feed)
            self._changed.clear()
            await self._changed.wait()

    def _joined(self, audio: Audio) -> Audio:
        """With the audio that waits behind it: tiny pieces cost as much as large ones."""
        pieces, size = [audio.data], len(audio.data)
        most = audio.format.size(_PIECE_SECONDS)
        while self._waiting and size < most:
            following = self._waiting[0]
            if not isinstance(following, Audio) or following.format != audio.format:
                break
            self._waiting.popleft()
            pieces.append(following.data)
            size += len(following.data)
        return Audio(b"".join(pieces), audio.format) if len(pieces) > 1 else audio

    async def _feed_audio(self, reservation: Reservation, audio: Audio) -> None:
        stream = self._stream
        if stream is None or audio.format != self._format:
            await self._flush(reservation)
            stream = self._stream = Stream(audio.format.rate, ASR_SAMPLE_RATE)
            self._format = audio.format
        step = max(audio.format.width, audio.format.size(_PIECE_SECONDS))
        for start in range(0, len(audio.data), step):
            piece = audio.data[start : start + step]
            await self._give(reservation, stream.push(audio.format.samples(piece)))
            self.waiting_bytes -= len(piece)
            self._drained.set()

    async def _flush(self, reservation: Reservation) -> None:
        """The filter's rest belongs before what comes next."""
        if self._stream is not None:
            await self._give(reservation, self._stream.flush())

    async def _give(self, reservation: Reservation, samples: Samples) -> None:
        if len(samples):
            await reservation.wait_for_room()
            reservation.feed(LiveAudio(samples))
            await asyncio.sleep(0)

    def on_session_time(self, event: LiveEvent) -> LiveEvent:
        """The event with its turn and times as the session counts them."""
        if not hasattr(event, "turn"):
            return event
        changed: dict[str, Any] = {"turn": self._number(event.turn)}
        if isinstance(event, TurnStarted | TurnCommitted):
            changed["start"] = event.start + self._offset
        if isinstance(event, TurnStopped | TurnCommitted):
            changed["end"] = event.end + self._offset
        return dataclasses.replace(event, **changed)

    def _number(self, turn: int) -> int:
        if turn not in self._numbers:
            self._numbers[turn] = next(self._turns)
        return self._numbers[turn]
