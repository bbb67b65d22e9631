"""The live sessions of one deployment: how many there may be, what they cost, and how far each has been heard.

Owns admission by count and by price, and the bound on audio that was fed and not heard yet. A session takes no slot of
the queue: it lasts as long as somebody talks. Knows no HTTP; what a session says is up to the backend.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from app.config.settings import LimitSettings
from app.errors import ApiError, Overloaded
from app.metrics import Metrics
from app.serving.notifier import Notifier
from app.serving.shares import FairShares
from app.serving.supervisor import ModelSupervisor
from app.serving.worker import Worker, WorkerJob
from backends.interface import ASR_SAMPLE_RATE, Failed
from backends.live import Feed, LiveAudio, LiveRequest

MOST_BACKLOG_SECONDS = 60.0  # of audio that one session may have waiting for its model
MOST_BACKLOG_FEEDS = 4096
_MEMORY_SECONDS = 60.0  # of audio, after which a measurement counts for a third
_TRUSTED_SECONDS = 10.0  # of audio heard lately; a price that rests on less refuses nobody
_BUSY = 0.9  # share of the worker's time that live sessions may take


class LivePrice:
    """Seconds of work per second of live audio, lately: what one more session adds to the worker's time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._spent = self._seconds = 0.0
        self._added_at = -math.inf

    @property
    def value(self) -> float | None:
        """None until enough was heard, and once it is long ago: of a machine that was busy then, nobody could ever be
        heard again to tell that it is not any more."""
        is_known = self._seconds >= _TRUSTED_SECONDS and self._clock() - self._added_at <= _MEMORY_SECONDS
        return self._spent / self._seconds if is_known else None

    def add(self, seconds: float, spent: float) -> None:
        self._added_at = self._clock()
        kept = math.exp(-seconds / _MEMORY_SECONDS)
        self._seconds, self._spent = self._seconds * kept + seconds, self._spent * kept + spent


class LiveJob:
    """A session in the worker. Feeds go to it in order; `room` is notified when some of them were heard."""

    def __init__(self, worker: Worker, job: WorkerJob, price: LivePrice) -> None:
        self.job, self.room = job, Notifier()
        self._worker, self._price = worker, price
        self._feeds, self._fed = 0, 0.0
        self._taken, self._seconds, self._spent = 0, 0.0, 0.0
        job.on_progress = self._progressed

    def feed(self, feed: Feed) -> None:
        """Send it. Raises Overloaded where too much waits to be heard already; one for a job that is over is
        dropped."""
        seconds = len(feed.samples) / ASR_SAMPLE_RATE if isinstance(feed, LiveAudio) else 0.0
        if self._feeds - self._taken >= MOST_BACKLOG_FEEDS or (seconds and self.backlog > MOST_BACKLOG_SECONDS):
            raise Overloaded(
                f"The model is {self.backlog:.0f} s behind what was said; no more audio can wait.", retry_after=5.0
            )
        self._feeds, self._fed = self._feeds + 1, self._fed + seconds
        self._worker.feed(self.job, feed)

    @property
    def backlog(self) -> float:
        """Seconds of audio that were fed and not heard yet."""
        return self._fed - self._seconds

    @property
    def has_room(self) -> bool:
        """Whether as much again may be fed as waits now."""
        return self.backlog <= MOST_BACKLOG_SECONDS / 2 and self._feeds - self._taken < MOST_BACKLOG_FEEDS / 2

    def cancel(self) -> None:
        """End it at the next step; nothing happens if it is over."""
        self._worker.cancel(self.job)

    def _progressed(self, feeds: int, seconds: float, spent: float) -> None:
        self._price.add(seconds - self._seconds, spent - self._spent)
        self._taken, self._seconds, self._spent = feeds, seconds, spent
        self.room.notify()


class LiveSessions:
    """Places for live jobs of one deployment. fair: there are several owners, and none may take all of them."""

    def __init__(self, supervisor: ModelSupervisor, limits: LimitSettings, metrics: Metrics, *, fair: bool) -> None:
        self._supervisor, self._limits, self._metrics, self._fair = supervisor, limits, metrics, fair
        self._places = FairShares(0)
        self.price = LivePrice()
        self.last_used: float | None = None
        self._jobs: set[WorkerJob] = set()
        self._closed: ApiError | None = None

    @property
    def count(self) -> int:
        """Places taken, also those whose job has not begun."""
        return self._places.held

    @property
    def active(self) -> int:
        """Jobs that run."""
        return len(self._jobs)

    @property
    def most(self) -> int:
        known = self._supervisor.capabilities
        return min(self._limits.live_sessions, known.max_live) if known else self._limits.live_sessions

    def take(self, owner: str) -> None:
        """Take a place. Raises Overloaded where one more session could not be served in real time, or would leave none
        to other owners."""
        cost, places = self.price.value, self.most
        if self.count >= places:
            self._refuse("live_sessions", f"{self.count} live sessions of {self._supervisor.name} are open already")
        if cost is not None and (self.count + 1) * cost > _BUSY:
            self._refuse(
                "live_price",
                f"one more live session of {self._supervisor.name} could not be heard in real time: a second of audio "
                f"takes {cost:.2f} s, and {self.count} sessions are open",
            )
        self._places.fit(min(places, int(_BUSY / cost)) if cost else places, fair=self._fair)
        if not self._places.has_room(owner):
            own = self._places.held_by(owner)
            self._refuse("live_sessions", f"this client has {own} live sessions, and the rest are kept for others")
        self._places.take(owner)
        self._tell()

    def give_back(self, owner: str) -> None:
        self._places.give_back(owner)
        self._tell()

    def _refuse(self, reason: str, text: str) -> None:
        self._metrics.refused_total.labels(reason).inc()
        raise Overloaded(f"The server is at its limit: {text}. Please retry later.", retry_after=10.0)

    def _tell(self) -> None:
        self._metrics.live_sessions.labels(self._supervisor.name).set(self.count)

    def begin(self, worker: Worker, request: LiveRequest, request_id: str) -> LiveJob:
        """Send the job to the loaded worker. Raises Draining, Overloaded, and FrameError for a request that cannot be
        encoded."""
        if self._closed is not None:
            raise self._closed
        if self.active >= worker.capabilities.max_live:  # places were taken before the model was loaded
            self._refuse("live_sessions", f"{self.active} live sessions of {self._supervisor.name} are open already")
        job = worker.submit(request, request_id)
        self._jobs.add(job)
        live = LiveJob(worker, job, self.price)
        job.when_ended(self._ended)
        job.when_ended(lambda _: live.room.notify())
        return live

    def _ended(self, job: WorkerJob) -> None:
        self._jobs.discard(job)
        self.last_used = time.time()
        self._supervisor.job_ended(job.last)

    def close(self, error: ApiError) -> None:
        """Take no more jobs, cut those that run."""
        self._closed = error
        for job in self._jobs:
            job.take(Failed("draining", error.message))
