"""Run requests through a loaded backend in this process, step by step as a worker does.

For self-tests, benchmarks and tests; a served model runs in a worker of its own. Knows the contract and no backend.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from backends.interface import Backend, Done, Event, Failed, Job, Request


def events(backend: Backend, request: Request) -> Iterator[Event]:
    """The events of one request as they are made; the last one is Done or Failed.

    The job is closed at the end, and when the caller stops early. Raises what `start` and `step` raise.
    """
    job = backend.start(request)
    try:
        while True:
            for _, event in backend.step([job]):
                yield event
                if isinstance(event, Done | Failed):
                    return
    finally:
        backend.close(job)


def run(backend: Backend, *requests: Request) -> list[list[Event]]:
    """All events of each request, the last one Done or Failed. The requests share their steps."""
    return finish(backend, [backend.start(request) for request in requests])


def finish(backend: Backend, jobs: Sequence[Job]) -> list[list[Event]]:
    """All further events of started jobs, each job closed behind its last one."""
    collected: dict[int, list[Event]] = {id(job): [] for job in jobs}
    active = list(jobs)
    while active:
        ended = []
        for job, event in backend.step(list(active)):
            collected[id(job)].append(event)
            if isinstance(event, Done | Failed):
                ended.append(job)
        for job in ended:
            active.remove(job)
            backend.close(job)
    return [collected[id(job)] for job in jobs]
