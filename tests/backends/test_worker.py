"""The worker process by itself, spoken to over its pipes, and its step loop with a scripted backend."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from backends import frames, messages
from backends.interface import (
    DeviceLost,
    Done,
    Event,
    Failed,
    InvalidInput,
    ModelFiles,
    OutOfMemory,
    Placement,
    Progress,
    SpeechRequest,
    TranscriptionRequest,
)
from backends.memory import free_caches, is_out_of_memory, resident_bytes
from backends.worker import StepLoop, WorkerProgress, failure
from tests.support.waiting import LIMIT, wait_until

ROOT = Path(__file__).resolve().parents[2]
SECOND = TranscriptionRequest(np.zeros(16_000, np.float32))


class Process:
    """A worker process and blocking pipes to it."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self.child = child
        self.beats: list[messages.Heartbeat] = []

    def send(self, command: messages.Command) -> None:
        assert self.child.stdin
        self.child.stdin.write(frames.encode(command))
        self.child.stdin.flush()

    def report(self) -> messages.Message | None:
        """The next report that is no heartbeat."""
        assert self.child.stdout
        while isinstance(found := frames.read_frame(self.child.stdout), messages.Heartbeat):  # type: ignore[arg-type]
            self.beats.append(found)
        return found

    def load(self, **options: Any) -> messages.Message | None:
        files = ModelFiles("d", "", None, Path("models"), Path("user"), options)
        self.send(messages.LoadModel("fake", files, Placement(threads=1)))
        return self.report()


@contextmanager
def worker() -> Iterator[Process]:
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "backends.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with child:
        try:
            yield Process(child)
        finally:
            child.kill()


def test_the_life_of_a_worker() -> None:
    with worker() as w:
        loaded = w.load(noise=True)
        assert isinstance(loaded, messages.Loaded)
        assert loaded.capabilities.engine == "fake"
        w.send(messages.StartJob(1, SECOND))
        assert w.report() == messages.JobStarted(1)
        events = []
        while not isinstance(report := w.report(), messages.JobEnded):
            assert isinstance(report, messages.JobEvent)
            events.append(report.event)
        assert isinstance(events[-1], Done)
        assert w.beats
        assert w.beats[-1].resident_bytes > 10_000_000
        w.send(messages.Stop())
        assert w.child.wait(LIMIT) == 0
        assert w.child.stderr
        assert b"the test double writes to descriptor 1" in w.child.stderr.read()


@pytest.mark.skipif(not hasattr(psutil.Process, "memory_maps"), reason="this system does not tell what is mapped")
def test_a_finished_job_keeps_no_file_of_samples_mapped(tmp_path: Path) -> None:
    path = tmp_path / "second.f32"
    path.write_bytes(bytes(64_000))
    with worker() as w:
        w.load()
        w.send(messages.StartJob(1, TranscriptionRequest(np.memmap(path, np.float32, mode="r"))))
        while not isinstance(w.report(), messages.JobEnded):
            pass
        process = psutil.Process(w.child.pid)
        wait_until(lambda: not any(path.name in part.path for part in process.memory_maps()))


def test_a_request_that_the_backend_refuses_fails_alone() -> None:
    with worker() as w:
        w.load()
        w.send(messages.StartJob(1, SpeechRequest("a", "b")))
        w.send(messages.StartJob(2, SECOND))
        report = w.report()
        assert isinstance(report, messages.JobEvent)
        assert isinstance(report.event, Failed)
        assert report.event.kind == "invalid_input"
        assert w.report() == messages.JobEnded(1)
        assert w.report() == messages.JobStarted(2)


def test_audio_that_is_gone_fails_its_job_only(tmp_path: Path) -> None:
    """Nobody here maps the file any more when it goes: Windows refuses to delete a mapped file."""
    np.zeros(1000, np.float32).tofile(tmp_path / "audio")
    samples = np.memmap(tmp_path / "audio", np.float32, mode="r")
    frame = frames.encode(messages.StartJob(1, TranscriptionRequest(samples)))
    samples._mmap.close()
    (tmp_path / "audio").unlink()
    with worker() as w:
        w.load()
        assert w.child.stdin
        w.child.stdin.write(frame)
        w.child.stdin.flush()
        report = w.report()
        assert isinstance(report, messages.JobEvent)
        assert isinstance(report.event, Failed)
        assert w.report() == messages.JobEnded(1)
        w.send(messages.StartJob(2, SECOND))
        assert w.report() == messages.JobStarted(2)


def test_a_cancelled_job_ends_without_a_last_event() -> None:
    with worker() as w:
        w.load(steps=100_000, delay=0.01, max_batch=1)
        w.send(messages.StartJob(1, SECOND))
        w.send(messages.StartJob(2, SECOND))
        assert w.report() == messages.JobStarted(1)
        w.send(messages.CancelJob(2))  # waits in the worker
        w.send(messages.CancelJob(1))  # runs
        ended = []
        while len(ended) < 2:
            report = w.report()
            if isinstance(report, messages.JobEnded):
                ended.append(report.job)
            else:
                assert isinstance(report, messages.JobEvent)
                assert isinstance(report.event, Progress)
        assert ended == [2, 1]


def test_a_load_that_fails_ends_the_process() -> None:
    with worker() as w:
        failed = w.load(fail_load="error")
        assert isinstance(failed, messages.LoadFailed)
        assert failed.failure.kind == "internal"
        assert w.child.wait(LIMIT) == 1


def test_the_heartbeat_tells_a_hung_step_from_an_idle_worker() -> None:
    with worker() as w:
        w.load(hang_at="step")
        w.send(messages.StartJob(1, SECOND))
        assert w.report() == messages.JobStarted(1)
        assert w.child.stdout
        beats = [frames.read_frame(w.child.stdout) for _ in range(3)]  # type: ignore[arg-type]
        assert all(isinstance(beat, messages.Heartbeat) and beat.working and beat.active == 1 for beat in beats[1:])
        assert len({beat.steps for beat in beats[1:] if isinstance(beat, messages.Heartbeat)}) == 1


def test_the_end_of_the_parent_ends_the_worker_even_in_a_hung_step() -> None:
    with worker() as w:
        w.load(hang_at="step")
        w.send(messages.StartJob(1, SECOND))
        w.report()
        assert w.child.stdin
        w.child.stdin.close()
        assert w.child.wait(LIMIT) == 1


@pytest.mark.skipif(os.name == "nt", reason="kills the parent with a POSIX signal")
def test_a_killed_gateway_leaves_no_worker() -> None:
    program = (
        "import subprocess, sys, time\n"
        "c = subprocess.Popen([sys.executable, '-m', 'backends.worker'], stdin=subprocess.PIPE, "
        "stdout=subprocess.PIPE)\n"
        "print(c.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ROOT)
    with parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        child.wait(LIMIT)
    assert not child.is_running()


def test_a_corrupted_stream_ends_the_worker() -> None:
    with worker() as w:
        w.load()
        assert w.child.stdin
        w.child.stdin.write(b"\xff" * 64)
        w.child.stdin.flush()
        assert w.child.wait(LIMIT) == 0


# --- The step loop with a scripted backend ----------------------------------------------------------------------------


class Recorder:
    """In place of the pipe."""

    def __init__(self) -> None:
        self.sent: list[messages.Report] = []

    def send(self, report: messages.Report) -> None:
        self.sent.append(report)

    def last_events(self) -> dict[int, Event]:
        return {
            r.job: r.event for r in self.sent if isinstance(r, messages.JobEvent) and isinstance(r.event, Done | Failed)
        }


class Scripted:
    """Jobs are their requests' texts; a job is done after two steps unless the script says otherwise."""

    def __init__(self) -> None:
        self.steps: list[list[str]] = []
        self.closed: list[str] = []
        self.count: dict[str, int] = {}
        self.fails: dict[str, list[Exception]] = {}
        self.too_many = 99

    def start(self, request: SpeechRequest) -> list[str]:
        self._fail("start " + request.text)
        return [request.text]

    def step(self, jobs: Sequence[list[str]]) -> Iterator[tuple[list[str], Event]]:
        self.steps.append([job[0] for job in jobs])
        if len(jobs) > self.too_many:
            raise RuntimeError("CUDA error: out of memory")
        for job in jobs:
            self._fail(job[0])
        for job in jobs:
            self.count[job[0]] = self.count.get(job[0], 0) + 1
            yield job, Done(job[0]) if self.count[job[0]] == 2 else Progress(1, 2)

    def _fail(self, name: str) -> None:
        if self.fails.get(name):
            raise self.fails[name].pop(0)

    def close(self, job: list[str]) -> None:
        self.closed.append(job[0])

    def footprint(self) -> int:
        return 5


def loop_of(backend: Scripted, max_batch: int = 4) -> tuple[StepLoop, Recorder]:
    recorder = Recorder()
    return StepLoop(backend, recorder, WorkerProgress(), max_batch), recorder  # type: ignore[arg-type]


def run(loop: StepLoop, names: str, turns: int = 20) -> None:
    for number, name in enumerate(names):
        loop.add(number, SpeechRequest(name, ""))
    for _ in range(turns):
        if not loop.idle:
            loop.turn()


def test_jobs_join_at_the_next_step_up_to_the_batch_limit() -> None:
    backend = Scripted()
    loop, sent = loop_of(backend, 2)
    run(loop, "abc")
    assert backend.steps == [["a", "b"], ["a", "b"], ["c"], ["c"]]
    assert [d.text for d in sent.last_events().values() if isinstance(d, Done)] == ["a", "b", "c"]
    assert backend.closed == ["a", "b", "c"]


def test_the_batch_limit_can_be_lowered_and_lifted() -> None:
    backend = Scripted()
    loop, _ = loop_of(backend)
    loop.limit(1)
    run(loop, "ab")
    assert max(len(step) for step in backend.steps) == 1
    loop.limit(0)
    run(loop, "cd")
    assert max(len(step) for step in backend.steps) == 2


def test_a_step_that_raises_is_repeated_job_by_job_and_only_the_culprit_fails() -> None:
    backend = Scripted()
    backend.fails["b"] = [ValueError("once together"), ValueError("once alone")]
    loop, sent = loop_of(backend)
    run(loop, "abc")
    outcome = sent.last_events()
    assert isinstance(outcome[1], Failed)
    assert outcome[1].kind == "internal"
    assert isinstance(outcome[0], Done)
    assert isinstance(outcome[2], Done)
    assert sorted(backend.closed) == ["a", "b", "c"]


def test_running_out_of_memory_together_is_cured_by_smaller_steps() -> None:
    backend = Scripted()
    backend.too_many = 1
    loop, sent = loop_of(backend)
    run(loop, "abc")
    assert all(isinstance(event, Done) for event in sent.last_events().values())


REMOVED = "DmlCommandQueue.cpp(71) Exception(1) tid(1a4) 887A0005 The GPU device instance has been suspended."


@pytest.mark.parametrize(("place", "told"), [("b", [0, 1, 2]), ("start b", [0, 1])])
def test_a_lost_device_fails_every_job_and_ends_the_loop(place: str, told: list[int]) -> None:
    """Whatever a library raises for it; the job that waits for its admission fails with the process."""
    backend = Scripted()
    backend.fails[place] = [RuntimeError(REMOVED)]
    loop, sent = loop_of(backend)
    with pytest.raises(DeviceLost, match="887A0005"):
        run(loop, "abc")
    last = sent.last_events()
    assert sorted(last) == told
    assert {event.kind for event in last.values() if isinstance(event, Failed)} == {"worker_lost"}
    assert [r.job for r in sent.sent if isinstance(r, messages.JobEnded)] == sorted(told, reverse="start" in place)
    assert len(backend.steps) == (0 if "start" in place else 1), "nothing is tried again on a lost device"


def test_a_device_that_is_lost_while_a_job_runs_alone_is_noticed() -> None:
    backend = Scripted()
    backend.fails["a"] = [ValueError("together"), RuntimeError(REMOVED)]
    loop, sent = loop_of(backend)
    with pytest.raises(DeviceLost):
        run(loop, "ab")
    assert sorted(sent.last_events()) == [0, 1]


@pytest.mark.parametrize("place", ["start a", "a"])
def test_running_out_of_memory_once_is_retried(place: str) -> None:
    backend = Scripted()
    backend.fails[place] = [MemoryError()]
    loop, sent = loop_of(backend)
    run(loop, "a")
    assert isinstance(sent.last_events()[0], Done)


@pytest.mark.parametrize("place", ["start a", "a"])
def test_running_out_of_memory_again_fails_the_job_by_its_kind(place: str) -> None:
    backend = Scripted()
    backend.fails[place] = [MemoryError(), MemoryError()]
    loop, sent = loop_of(backend)
    run(loop, "ab")
    assert isinstance(failed := sent.last_events()[0], Failed)
    assert failed.kind == "out_of_memory"
    assert isinstance(sent.last_events()[1], Done)


def test_every_job_ends_exactly_once_whatever_happens() -> None:
    backend = Scripted()
    backend.fails = {"a": [ValueError()] * 2, "start b": [InvalidInput("no")], "d": [MemoryError()] * 9}
    loop, sent = loop_of(backend, 3)
    run(loop, "abcdef")
    ended = [r.job for r in sent.sent if isinstance(r, messages.JobEnded)]
    assert sorted(ended) == list(range(6))
    assert sorted(backend.closed) == ["a", "c", "d", "e", "f"]  # b never started


def test_a_close_that_raises_is_logged_and_survived(capsys: pytest.CaptureFixture[str]) -> None:
    backend = Scripted()
    backend.close = lambda job: 1 / 0  # type: ignore[method-assign, assignment]
    loop, sent = loop_of(backend)
    run(loop, "ab")
    assert all(isinstance(event, Done) for event in sent.last_events().values())
    assert "ZeroDivisionError" in capsys.readouterr().err


# --- Errors -----------------------------------------------------------------------------------------------------------


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemory("x"),
        OutOfMemoryError("anything"),
        np._core._exceptions._ArrayMemoryError((10**9, 10**9), np.dtype("f8")),  # type: ignore[attr-defined]
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        RuntimeError("Could not allocate tensor with 4194304 bytes. There is not enough GPU video memory available!"),
        RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bad allocation: std::bad_alloc"),
        RuntimeError(
            "Non-zero status code ... BFCArena::AllocateRawInternal Failed to allocate memory for requested "
            "buffer of size 1"
        ),
        RuntimeError(
            "DmlExecutionProvider ... 8007000E Not enough memory resources are available to complete this operation."
        ),
        RuntimeError("MPS backend out of memory (MPS allocated: 18.10 GB"),
        OSError(1455, "The paging file is too small for this operation to complete."),
        OSError(12, "Cannot allocate memory"),
    ],
    ids=lambda e: type(e).__name__ + str(e)[:20],
)
def test_every_way_of_running_out_of_memory_is_recognised(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert failure(error).kind == "out_of_memory"


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("out of memory"), KeyError("alloc")])
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert not is_out_of_memory(error)
    assert failure(error).kind == "internal"


def test_a_cause_counts_too() -> None:
    outer = ValueError("wrapped")
    outer.__cause__ = MemoryError()
    assert is_out_of_memory(outer)


def test_resident_memory_is_measured() -> None:
    with mmap.mmap(-1, 30_000_000) as ballast:  # fresh pages: an array may lie where the process has memory to spare
        before = resident_bytes()
        np.frombuffer(ballast, np.uint8)[:] = 1
        assert resident_bytes() - before > 20_000_000 or sys.platform == "darwin"
    free_caches()
