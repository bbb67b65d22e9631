"""The child process of one loaded model: load, warm up, step loop (`python -m backends.worker`).

The main thread makes every call into the backend: it admits waiting jobs up to the batch limit, steps all active jobs
once, sends their events, retires the finished and looks for cancels. A reader thread feeds it commands, a heartbeat
thread says that the process lives and whether the main thread makes progress. Live jobs stand beside the batch limit:
each takes what it is fed between steps, and is in a step only while it has work. Knows the contract in
`backends.interface` and no particular model.

A step that raises must leave its jobs as they were: it is repeated for each of them alone, so that a job that cannot be
served fails without the others. Only a lost device fails them all and ends the process, for the gateway to start
another.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from backends import messages
from backends.device_loss import device_lost
from backends.interface import (
    Backend,
    BackendError,
    Capabilities,
    DeviceLost,
    Done,
    Failed,
    Job,
    OutOfMemory,
    Request,
)
from backends.live import Feed, LiveBackend, LiveRequest
from backends.live_jobs import LiveJobs
from backends.memory import free_caches, is_out_of_memory, resident_bytes
from backends.pipes import Inbox, Outbox, take_pipes
from backends.registry import backend_info, make_backend
from backends.spoken_text.reader import Reader

HEARTBEAT_SECONDS = 0.5
FOOTPRINT_SECONDS = 1.0  # between two looks at the backend's footprint while it works


def failure(error: BaseException) -> Failed:
    """What to report for an exception; anything unplanned is logged with its traceback."""
    if isinstance(error, BackendError):
        return error.to_event()
    traceback.print_exception(error)
    if lost := device_lost(error):
        return lost.to_event()
    if is_out_of_memory(error):
        return OutOfMemory(f"out of memory: {error}").to_event()
    return Failed("internal", f"{type(error).__name__}: {error}")


class WorkerProgress:
    """What the heartbeat tells, written by the main thread and read by the heartbeat thread."""

    def __init__(self) -> None:
        self.steps = self.active = self.waiting = self.footprint = 0
        self.working = False

    @contextmanager
    def work(self) -> Iterator[None]:
        """Around every call into the backend: progress is the end of one."""
        self.working = True
        try:
            yield
        finally:
            self.steps += 1
            self.working = False

    def report(self) -> messages.Heartbeat:
        return messages.Heartbeat(self.steps, self.working, self.active, self.waiting, self.footprint, resident_bytes())


class StepLoop:
    """The jobs of one loaded backend. Every job ends with JobEnded, which says that its slot is free."""

    def __init__(
        self,
        backend: Backend,
        outbox: Outbox,
        progress: WorkerProgress,
        max_batch: int,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """detail: of the backend's capabilities, which it may change while it works."""
        self._backend, self._outbox, self._progress = backend, outbox, progress
        self._max_batch = self._limit = max(1, max_batch)
        self._detail = {} if detail is None else detail
        self._reported = dict(self._detail)
        self._waiting: deque[tuple[int, Request]] = deque()
        self._active: dict[int, Job] = {}
        self._live = LiveJobs(backend)
        self._next_poll = 0.0

    @property
    def idle(self) -> bool:
        return not self._active and not self._waiting and self._live.idle

    def limit(self, jobs: int) -> None:
        self._limit = min(jobs, self._max_batch) if jobs > 0 else self._max_batch

    def add(self, number: int, request: Request | LiveRequest) -> None:
        """Start a live job, which takes no slot, at once; let another wait for one."""
        if isinstance(request, LiveRequest):
            self._admit(number, request)
        else:
            self._waiting.append((number, request))
            self._send()

    def feed(self, number: int, feed: Feed) -> None:
        self._live.feed(number, feed)

    def cancel(self, number: int) -> None:
        """Free the slot of a job; one that has ended already is no error, the messages crossed."""
        if number in self._active or number in self._live:
            self._close(number)
        elif any(n == number for n, _ in self._waiting):
            self._waiting = deque(item for item in self._waiting if item[0] != number)
            self._send()
            self._outbox.send(messages.JobEnded(number))

    def turn(self) -> None:
        """Admit, step once, retire; tell what that changed."""
        while self._waiting and len(self._active) < self._limit:
            self._admit(*self._waiting.popleft())
        self._hand_over()
        if jobs := self._active | self._live.with_work():
            self._step(jobs)
        for news in self._live.news():
            self._outbox.send(news)
        if self._detail != self._reported:
            self._reported = dict(self._detail)
            self._outbox.send(messages.DetailChanged(self._reported))
        self._poll()

    def poll_now(self) -> None:
        """Ask the backend what it holds."""
        self._next_poll = 0.0
        self._poll()

    def _send(self) -> None:
        self._progress.active, self._progress.waiting = len(self._active), len(self._waiting)

    def _poll(self) -> None:
        if time.monotonic() >= self._next_poll:
            self._progress.footprint = self._backend.footprint()
            self._next_poll = time.monotonic() + FOOTPRINT_SECONDS

    def _hand_over(self) -> None:
        """Give the live jobs what they were fed. One that cannot take it fails alone."""
        for live in self._live.jobs():
            try:
                with self._progress.work():
                    self._live.hand_over(live)
            except Exception as error:
                self._end_if_lost(error)
                self._close(live.number, failure(error))

    def _admit(self, number: int, request: Request | LiveRequest) -> None:
        try:
            job = self._start(request)
        except Exception as error:
            self._outbox.send(messages.JobEvent(number, failure(error)))
            self._outbox.send(messages.JobEnded(number))
            self._end_if_lost(error)
            return
        if isinstance(request, LiveRequest):
            self._live.add(number, job)
        else:
            self._active[number] = job
        self._send()
        self._outbox.send(messages.JobStarted(number, tuple(getattr(job, "notes", ()))))

    def _start(self, request: Request | LiveRequest) -> Job:
        start = cast(LiveBackend, self._backend).start  # the gateway asks only those that have live jobs for one
        try:
            with self._progress.work():
                return start(request)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        free_caches()
        with self._progress.work():
            return start(request)

    def _step(self, jobs: Mapping[int, Job]) -> None:
        try:
            self._step_together(jobs)
        except Exception as error:
            self._step_apart(jobs, error)

    def _step_together(self, jobs: Mapping[int, Job]) -> None:
        names = {id(job): number for number, job in jobs.items()}
        over: list[tuple[int, Done | Failed]] = []
        began = time.perf_counter()
        step = cast(LiveBackend, self._backend).step  # of those without live jobs nothing else comes than from theirs
        try:
            with self._progress.work():
                for job, event in step(list(jobs.values())):
                    if isinstance(event, Done | Failed):
                        over.append((names[id(job)], event))
                    else:
                        self._outbox.send(messages.JobEvent(names[id(job)], event))
        finally:
            self._live.charge(list(jobs), time.perf_counter() - began)
            for number, last in over:
                self._close(number, last)

    def _step_apart(self, jobs: Mapping[int, Job], error: Exception) -> None:
        """After a failed step: repeat it job by job, so that only the job that cannot be served fails."""
        self._end_if_lost(error)
        out_of_memory = is_out_of_memory(error)
        if out_of_memory:
            free_caches()
        left = [number for number in jobs if number in self._active or number in self._live]
        if len(left) == 1 and not out_of_memory:
            self._close(left[0], failure(error))
            return
        for number in left:
            try:
                self._step_together({number: jobs[number]})
            except Exception as alone:
                self._end_if_lost(alone)
                self._close(number, failure(alone))
                free_caches()

    def _end_if_lost(self, error: Exception) -> None:
        """A lost device fails every job under way, and the loop: raises DeviceLost. Waiting jobs fail with the
        process."""
        lost = device_lost(error)
        if lost is None:
            return
        for number in [*self._active, *(live.number for live in self._live.jobs())]:
            self._close(number, lost.to_event())
        raise lost from error

    def _close(self, number: int, last: Done | Failed | None = None) -> None:
        """Free the slot before its last event goes out: whoever reads that event may delete the job's files."""
        job = self._active.pop(number) if number in self._active else self._live.pop(number)
        self._send()
        try:
            with self._progress.work():
                self._backend.close(job)
        except Exception as error:
            traceback.print_exception(error)
        del job
        if last is not None:
            self._outbox.send(messages.JobEvent(number, last))
        self._outbox.send(messages.JobEnded(number))


def warm_up(backend: Backend, progress: WorkerProgress) -> None:
    """Run the canary through the whole path. Raises what it raises, a BackendError for a Failed event."""
    with progress.work():
        job = backend.start(backend.canary())
    try:
        while True:
            with progress.work():
                events = [event for _, event in backend.step([job])]
            for event in events:
                if isinstance(event, Done):
                    return
                if isinstance(event, Failed):
                    raise _as_error(event)
    finally:
        backend.close(job)


def _as_error(event: Failed) -> BackendError:
    error = BackendError(event.message, param=event.param, code=event.code)
    error.kind = event.kind  # type: ignore[misc]  # the kind of this one error, not of the class
    return error


def load(command: messages.LoadModel, progress: WorkerProgress) -> tuple[Backend, Capabilities, float, float]:
    """Build the backend, load its weights, warm it up. Returns also the seconds that loading and warming took."""
    began = time.perf_counter()
    with progress.work():
        backend = make_backend(command.backend)
        if "speech" in backend_info(command.backend).tasks:
            backend = Reader(backend)
        capabilities = backend.load(command.model, command.placement)
    loaded = time.perf_counter()
    warm_up(backend, progress)
    return backend, capabilities, loaded - began, time.perf_counter() - loaded


def serve(loop: StepLoop, backend: Backend, inbox: Inbox, outbox: Outbox) -> None:
    """Until the gateway says stop or is gone."""
    while True:
        while loop.idle or not inbox.queue.empty():
            command = inbox.queue.get()
            if command is None or isinstance(command, messages.Stop):
                return
            _obey(command, loop, backend)
            del command  # a request, and the file of samples it maps, would live on until the next one
        loop.turn()


def _obey(command: messages.Message, loop: StepLoop, backend: Backend) -> None:
    match command:
        case messages.StartJob(number, request):
            loop.add(number, request)
        case messages.FeedJob(number, feed):
            loop.feed(number, feed)
        case messages.StartCanary(number):
            loop.add(number, backend.canary())
        case messages.CancelJob(number):
            loop.cancel(number)
        case messages.LimitBatch(jobs):
            loop.limit(jobs)
        case _:
            print(f"unexpected command {type(command).__name__}", file=sys.stderr)


def _beat(progress: WorkerProgress, outbox: Outbox) -> None:
    while True:
        outbox.send(progress.report())
        time.sleep(HEARTBEAT_SECONDS)


def main() -> int:
    """The life of the process; exit status 1 if the model could not be loaded, or its device was lost."""
    commands, reports = take_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the gateway, which drains its workers
    outbox, progress = Outbox(reports), WorkerProgress()
    inbox = Inbox(commands, outbox)
    inbox.start()
    first = inbox.queue.get()
    if not isinstance(first, messages.LoadModel):
        return 0
    threading.Thread(target=_beat, args=(progress, outbox), name="heartbeat", daemon=True).start()
    try:
        backend, capabilities, load_seconds, warm_seconds = load(first, progress)
    except Exception as error:
        outbox.send(messages.LoadFailed(failure(error)))
        return 1
    loop = StepLoop(backend, outbox, progress, capabilities.max_batch, capabilities.detail)
    loop.limit(first.batch_limit)
    loop.poll_now()
    outbox.send(progress.report())
    outbox.send(messages.Loaded(capabilities, load_seconds, warm_seconds))
    try:
        serve(loop, backend, inbox, outbox)
    except DeviceLost as lost:  # the gateway starts another process, which gets the device anew
        print(lost.message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
