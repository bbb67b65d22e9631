"""Jobs of a backend in the test's own process, stepped together until each is over, as a worker does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backends.interface import AudioChunk, Done, Event, Failed, Request, Samples


def run(backend: Any, *requests: Request) -> list[list[Event]]:
    """The events of each request; all are started before the first step."""
    return finish(backend, [backend.start(request) for request in requests])


def finish(backend: Any, jobs: Sequence[Any]) -> list[list[Event]]:
    """The events that each of these jobs still gives. Every job is closed when it has ended."""
    events: dict[int, list[Event]] = {id(job): [] for job in jobs}
    active = list(jobs)
    while active:
        for job, event in backend.step(list(active)):
            events[id(job)].append(event)
        for job in [job for job in active if events[id(job)] and isinstance(events[id(job)][-1], Done | Failed)]:
            backend.close(job)
            active.remove(job)
    return [events[id(job)] for job in jobs]


def samples_of(events: Sequence[Event]) -> Samples:
    """float32 [samples]: the audio of one request's events; empty without any."""
    chunks = [event.samples for event in events if isinstance(event, AudioChunk)]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.float32)


def done_of(events: Sequence[Event]) -> Done:
    """The event that ended a request well."""
    last = events[-1]
    assert isinstance(last, Done), last
    return last
