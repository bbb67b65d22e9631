"""Live jobs in the step loop: beside the batch limit, in order, and only while they have work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from backends import messages
from backends.interface import Done, Event, Failed, InvalidInput, Progress, SpeechRequest
from backends.live import (
    Feed,
    LiveAudio,
    LiveCommit,
    LiveEnd,
    LiveEvent,
    LiveRequest,
    TurnCommitted,
    TurnDelta,
    TurnDone,
    TurnStarted,
    TurnStopped,
)
from backends.live_jobs import TURN_SECONDS
from backends.worker import StepLoop, WorkerProgress
from tests.backends.test_worker import Process, Recorder, worker
from tests.support.waiting import LIMIT

RATE = 16_000


class Listener:
    """A backend whose live jobs repeat what they are fed, a step for each feed; other jobs never end."""

    def __init__(self) -> None:
        self.steps: list[list[str]] = []
        self.closed: list[str] = []
        self.room = 100
        self.fails = "nobody"

    def start(self, request: Any) -> list[Any]:
        return [request.prompt if isinstance(request, LiveRequest) else request.text]

    def feed(self, job: list[Any], feed: Feed) -> None:
        if self.fails == "feed":
            raise InvalidInput("it cannot hear this")
        job.append(feed)

    def has_work(self, job: list[Any]) -> bool:
        return len(job) > 1

    def is_full(self, job: list[Any]) -> bool:
        return len(job) > self.room

    def step(self, jobs: Sequence[list[Any]]) -> Iterator[tuple[list[Any], Event | LiveEvent]]:
        self.steps.append([job[0] for job in jobs])
        for job in jobs:
            if job[0] == self.fails:
                raise ValueError("this one cannot be served")
            if len(job) == 1:
                yield job, Progress(0)
            elif isinstance(feed := job.pop(1), LiveEnd):
                yield job, Done()
            else:
                yield job, TurnDelta(0, f"{len(feed.samples)}" if isinstance(feed, LiveAudio) else "commit")

    def close(self, job: list[Any]) -> None:
        self.closed.append(job[0])

    def footprint(self) -> int:
        return 0


def loop_of(backend: Listener, max_batch: int = 1) -> tuple[StepLoop, Recorder]:
    recorder = Recorder()
    return StepLoop(backend, recorder, WorkerProgress(), max_batch), recorder  # type: ignore[arg-type]


def audio(samples: int) -> LiveAudio:
    return LiveAudio(np.zeros(samples, np.float32))


def told(sent: Recorder, job: int) -> list[Any]:
    return [r.event for r in sent.sent if isinstance(r, messages.JobEvent) and r.job == job]


def test_live_jobs_take_no_place_of_the_batch_and_wait_for_none() -> None:
    backend = Listener()
    loop, sent = loop_of(backend)
    loop.add(0, SpeechRequest("a", ""))
    for number in (1, 2, 3):
        loop.add(number, LiveRequest(prompt=f"live {number}"))
        loop.feed(number, audio(10 * number))
    loop.add(4, SpeechRequest("b", ""))
    loop.turn()
    assert backend.steps == [["a", "live 1", "live 2", "live 3"]]
    assert [r.job for r in sent.sent if isinstance(r, messages.JobStarted)] == [1, 2, 3, 0]
    assert told(sent, 3) == [TurnDelta(0, "30")]


def test_a_live_job_without_work_lets_the_loop_rest() -> None:
    loop, sent = loop_of(backend := Listener())
    loop.add(1, LiveRequest())
    assert loop.idle
    loop.feed(1, audio(5))
    assert not loop.idle
    loop.turn()
    assert loop.idle
    loop.turn()
    assert len(backend.steps) == 1
    assert [r for r in sent.sent if isinstance(r, messages.LiveProgress)][-1].feeds == 1


def test_feeds_keep_their_order_and_the_end_ends_the_job() -> None:
    loop, sent = loop_of(Listener())
    loop.add(1, LiveRequest())
    for feed in (audio(1), LiveCommit(), audio(2), LiveEnd()):
        loop.feed(1, feed)
    while not loop.idle:
        loop.turn()
    assert told(sent, 1) == [TurnDelta(0, "1"), TurnDelta(0, "commit"), TurnDelta(0, "2"), Done()]
    assert sent.sent[-1] == messages.JobEnded(1)
    loop.feed(1, audio(3))  # crossed the end
    assert loop.idle


def test_a_full_job_gets_no_more_until_it_has_room() -> None:
    backend = Listener()
    backend.room = 2
    loop, sent = loop_of(backend)
    loop.add(1, LiveRequest())
    for size in range(1, 7):
        loop.feed(1, audio(size))
    loop.turn()
    assert [r.feeds for r in sent.sent if isinstance(r, messages.LiveProgress)] == [2]
    while not loop.idle:
        loop.turn()
    assert [delta.text for delta in told(sent, 1)] == list("123456")


def test_a_long_upload_of_one_job_is_handed_over_in_turns() -> None:
    backend = Listener()
    loop, sent = loop_of(backend)
    for number in (1, 2):
        loop.add(number, LiveRequest(prompt=str(number)))
    loop.feed(1, audio(int(3 * TURN_SECONDS * RATE)))
    loop.feed(2, audio(RATE))
    loop.turn()
    assert backend.steps == [["1", "2"]]
    while not loop.idle:
        loop.turn()
    progress = [r for r in sent.sent if isinstance(r, messages.LiveProgress) and r.job == 1]
    assert [(r.feeds, r.seconds) for r in progress] == [(0, TURN_SECONDS), (0, 2 * TURN_SECONDS), (1, 3 * TURN_SECONDS)]


def test_what_a_job_cost_grows_with_its_steps() -> None:
    loop, sent = loop_of(Listener())
    loop.add(1, LiveRequest())
    loop.feed(1, audio(RATE))
    loop.turn()
    loop.feed(1, audio(RATE))
    loop.turn()
    first, second = [r for r in sent.sent if isinstance(r, messages.LiveProgress)]
    assert (first.seconds, second.seconds) == (1.0, 2.0)
    assert 0 < first.spent < second.spent


@pytest.mark.parametrize("place", ["feed", "bad"])
def test_a_live_job_that_fails_does_so_alone(place: str) -> None:
    backend = Listener()
    loop, sent = loop_of(backend)
    loop.add(1, LiveRequest(prompt="bad"))
    loop.add(2, LiveRequest(prompt="good"))
    loop.feed(2, audio(2))
    loop.turn()
    backend.fails = place
    loop.feed(1, audio(1))
    loop.turn()
    backend.fails = "nobody"
    assert isinstance(told(sent, 1)[-1], Failed)
    assert backend.closed == ["bad"]
    loop.feed(2, audio(2))
    loop.turn()
    assert told(sent, 2) == [TurnDelta(0, "2")] * 2


def test_a_cancel_ends_a_live_job_whatever_waits() -> None:
    backend = Listener()
    loop, sent = loop_of(backend)
    loop.add(1, LiveRequest(prompt="gone"))
    loop.feed(1, audio(1))
    loop.cancel(1)
    assert sent.sent[-1] == messages.JobEnded(1)
    assert loop.idle
    assert backend.closed == ["gone"]


# --- A worker process -------------------------------------------------------------------------------------------------


def reports_until(process: Process, kind: type) -> list[Any]:
    """All reports up to the first of a kind, which for an event means what it carries."""
    found: list[Any] = []
    while not found or not isinstance(getattr(found[-1], "event", found[-1]), kind):
        found.append(process.report())
        assert found[-1] is not None
    return found


def test_a_worker_takes_live_audio_beside_other_jobs() -> None:
    with worker() as w:
        w.load()
        w.send(messages.StartJob(1, LiveRequest(logprobs=True)))
        speech = np.full(RATE, 0.1, np.float32)
        w.send(messages.FeedJob(1, LiveAudio(speech)))
        w.send(messages.FeedJob(1, LiveAudio(np.zeros(RATE, np.float32))))
        events = [r.event for r in reports_until(w, TurnDone) if isinstance(r, messages.JobEvent)]
        assert events[0] == TurnStarted(0, 0.0)
        kinds = [type(e) for e in events if not isinstance(e, TurnDelta)]
        assert kinds == [TurnStarted, TurnStopped, TurnCommitted, TurnDone]
        done = events[-1]
        assert isinstance(done, TurnDone)
        assert done.text == "one two three"
        assert "".join(e.text for e in events if isinstance(e, TurnDelta)) == done.text
        assert [one.token for one in done.logprobs] == ["one", "two", "three"]
        w.send(messages.FeedJob(1, LiveEnd()))
        assert isinstance(reports_until(w, Done)[-1].event, Done)
        assert isinstance(reports_until(w, messages.JobEnded)[-1], messages.JobEnded)
        w.send(messages.Stop())
        assert w.child.wait(LIMIT) == 0
