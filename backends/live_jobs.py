"""The live jobs of a worker's step loop: what was fed to each and waits, how much audio it got, and what it cost.

Owns the hand-over of feeds between steps. Knows the contract in `backends.live`, and neither pipes nor the other jobs.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import cast

from backends import messages
from backends.interface import ASR_SAMPLE_RATE, Backend, Job
from backends.live import Feed, LiveAudio, LiveBackend

TURN_SECONDS = 5.0  # audio that one job gets between two steps at most, so that other jobs wait for no long upload
_PIECE = int(TURN_SECONDS * ASR_SAMPLE_RATE)


class LiveJob:
    """One live job. taken: feeds that went to the backend; seconds, spent: see `messages.LiveProgress`."""

    def __init__(self, number: int, job: Job) -> None:
        self.number, self.job = number, job
        self.feeds: deque[Feed] = deque()
        self.taken = 0
        self.seconds = self.spent = 0.0
        self._reported = self.progress()

    def progress(self) -> messages.LiveProgress:
        return messages.LiveProgress(self.number, self.taken, self.seconds, self.spent)

    def news(self) -> messages.LiveProgress | None:
        """What to tell the gateway, None if it knows."""
        now = self.progress()
        if now == self._reported:
            return None
        self._reported = now
        return now


class LiveJobs:
    """All live jobs of one backend, by their numbers."""

    def __init__(self, backend: Backend) -> None:
        self._backend = cast(LiveBackend, backend)  # only a backend that has live jobs is asked for one
        self._jobs: dict[int, LiveJob] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._jobs

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do before the next feed."""
        return not any(self._may_take(job) or self._backend.has_work(job.job) for job in self._jobs.values())

    def add(self, number: int, job: Job) -> None:
        self._jobs[number] = LiveJob(number, job)

    def pop(self, number: int) -> Job:
        return self._jobs.pop(number).job

    def feed(self, number: int, feed: Feed) -> None:
        """Keep it until the next turn; one for a job that is over is dropped."""
        if number in self._jobs:
            self._jobs[number].feeds.append(feed)

    def jobs(self) -> list[LiveJob]:
        return list(self._jobs.values())

    def with_work(self) -> dict[int, Job]:
        """The jobs that take part in the next step."""
        return {n: live.job for n, live in self._jobs.items() if self._backend.has_work(live.job)}

    def hand_over(self, live: LiveJob) -> None:
        """Give one job what waits for it, up to TURN_SECONDS of audio. Raises what the backend raises."""
        began, until = time.perf_counter(), live.seconds + TURN_SECONDS
        while self._may_take(live) and live.seconds < until:
            self._take(live, live.feeds.popleft())
        live.spent += time.perf_counter() - began

    def _take(self, live: LiveJob, feed: Feed) -> None:
        if isinstance(feed, LiveAudio) and len(feed.samples) > _PIECE:
            live.feeds.appendleft(LiveAudio(feed.samples[_PIECE:]))
            feed = LiveAudio(feed.samples[:_PIECE])
        else:
            live.taken += 1
        self._backend.feed(live.job, feed)
        if isinstance(feed, LiveAudio):
            live.seconds += len(feed.samples) / ASR_SAMPLE_RATE

    def _may_take(self, live: LiveJob) -> bool:
        return bool(live.feeds) and not self._backend.is_full(live.job)

    def charge(self, numbers: Sequence[int], seconds: float) -> None:
        """Divide a step's time among all its jobs, of which `numbers` are some."""
        for number in numbers:
            if number in self._jobs:
                self._jobs[number].spent += seconds / len(numbers)

    def news(self) -> Iterable[messages.LiveProgress]:
        """What changed since it was told last."""
        return [news for live in self._jobs.values() if (news := live.news())]
