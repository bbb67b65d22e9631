"""Requests run in this process: all events to the last, and every job closed."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends import drive
from backends.fake.backend import FakeBackend
from backends.interface import AudioChunk, Done, Event, Failed, Job, ModelFiles, Placement, SpeechRequest
from backends.registry import backend_info, check_options


class Watched(FakeBackend):
    """Counts the jobs that are open."""

    open = 0

    def start(self, request: object) -> Job:
        job = super().start(request)  # type: ignore[arg-type]
        self.open += 1
        return job

    def close(self, job: Job) -> None:
        super().close(job)
        self.open -= 1


def loaded(**options: object) -> Watched:
    backend = Watched()
    checked = check_options(backend_info("fake"), {"task": "speech", **options})
    backend.load(ModelFiles("d", "", None, Path("m"), Path("u"), checked), Placement())
    return backend


def shape(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def test_requests_that_share_their_steps_end_as_alone() -> None:
    backend = loaded()
    short, long = SpeechRequest("one", "fake-low"), SpeechRequest("one two three four five six seven", "fake-low")
    together = drive.run(backend, short, long)
    assert [shape(events) for events in together] == [shape(list(drive.events(backend, r))) for r in (short, long)]
    assert all(isinstance(events[-1], Done) and isinstance(events[0], AudioChunk) for events in together)
    assert backend.open == 0


def test_a_caller_who_stops_early_leaves_no_open_job() -> None:
    backend = loaded()
    events = drive.events(backend, SpeechRequest("one two three four five", "fake-low"))
    assert isinstance(next(events), AudioChunk)
    assert backend.open == 1
    events.close()
    assert backend.open == 0


def test_a_step_that_raises_closes_the_job() -> None:
    backend = loaded(fail_step="error")
    drive.run(backend, backend.canary())  # the warm-up is spared
    with pytest.raises(Exception, match="nobody planned"):
        list(drive.events(backend, SpeechRequest("one", "fake-low")))
    assert backend.open == 0


def test_a_failed_job_is_over() -> None:
    class Refusing(Watched):
        def step(self, jobs):  # type: ignore[no-untyped-def]
            return [(job, Failed("internal", "no")) for job in jobs]

    backend = Refusing()
    backend.load(ModelFiles("d", "", None, Path("m"), Path("u"), check_options(backend_info("fake"), {})), Placement())
    assert drive.run(backend, backend.canary()) == [[Failed("internal", "no")]]
    assert backend.open == 0
