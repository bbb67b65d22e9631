"""The test double: deterministic work for any task, and faults on demand.

Implements the backend contract with nothing but arithmetic. What a job says lies in `backends.fake.jobs`; this file
owns loading, steps and faults.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.fake.info import FakeOptions
from backends.fake.jobs import CANARY, SPEECH_RATE, VOICES, FakeJob, begin
from backends.fake.live import FakeLiveJob, begin_live
from backends.interface import (
    ASR_SAMPLE_RATE,
    AudioPart,
    BackendError,
    Capabilities,
    ChatRequest,
    DiarizationRequest,
    Event,
    InvalidInput,
    Message,
    ModelFiles,
    ModelUnavailable,
    OutOfMemory,
    Placement,
    Request,
    SpeechRequest,
    Task,
    TextPart,
    TranscriptionRequest,
)
from backends.live import Feed, LiveEvent, LiveRequest

_FAULTS: dict[str, type[BackendError]] = {"invalid_input": InvalidInput, "model_unavailable": ModelUnavailable}
_REQUESTS: dict[Task, tuple[type, ...]] = {
    "transcription": (TranscriptionRequest, LiveRequest),
    "speech": (SpeechRequest,),
    "chat": (ChatRequest,),
    "diarization": (DiarizationRequest,),
}
_CRASH_CODE = 86  # exit status of a sudden death on demand


class FakeBackend:
    """See FakeOptions for what it can be asked to do."""

    def __init__(self) -> None:
        self._options = FakeOptions()
        self._device = ""
        self._faults = 0
        self._warm = False  # the warm-up is over: faults at start and step are due from now on
        self._grown = False
        self._ballast: list[NDArray[np.uint8]] = []
        self._detail: dict[str, Any] = {}

    def load(self, model: ModelFiles, placement: Placement) -> Capabilities:
        """Claim the memory and sleep; the weights, if a folder is named, are not looked at."""
        options = self._options = FakeOptions(**model.options)
        self._device = placement.device
        if options.noise:
            _make_noise()
        time.sleep(options.load_seconds)
        if options.allocate and options.memory:
            self._ballast.append(np.full(options.memory, 1, np.uint8))
        self._meet("load", options.fail_load)
        self._detail |= {"threads": placement.threads, "omp_num_threads": os.environ.get("OMP_NUM_THREADS", "")}
        return Capabilities(
            engine="fake",
            device=placement.device,
            dtype="float32",
            max_batch=options.max_batch,
            sample_rate=SPEECH_RATE if options.task == "speech" else 0,
            voices=VOICES if options.task == "speech" else (),
            words=options.task == "transcription",
            translation=options.task == "transcription",
            diarization=options.diarization,
            native_speed=options.native_speed,
            max_live=options.max_live if options.task == "transcription" else 0,
            detail=self._detail,
        )

    def canary(self) -> Request:
        """The smallest request of the task."""
        silence = np.zeros(ASR_SAMPLE_RATE // 10, np.float32)
        if self._options.task == "speech":
            return SpeechRequest("a", VOICES[0].id, options=CANARY)
        if self._options.task == "chat":
            return ChatRequest((Message("user", (AudioPart(silence), TextPart("a"))),), max_tokens=1, options=CANARY)
        if self._options.task == "diarization":
            return DiarizationRequest(silence, options=CANARY)
        return TranscriptionRequest(silence, options=CANARY)

    def start(self, request: Request | LiveRequest) -> FakeJob | FakeLiveJob:
        """Plan the whole answer; steps only give it out. Raises InvalidInput for a request of another task."""
        self._meet("start", self._options.fail_start)
        if not isinstance(request, _REQUESTS[self._options.task]):
            raise InvalidInput(f"this deployment does {self._options.task}", code="OperationNotSupported")
        if self._warm and self._options.growth and not self._grown:
            self._grown = self._detail["grown"] = True
            self._ballast.append(np.full(self._options.growth, 1, np.uint8))
        if isinstance(request, LiveRequest):
            return begin_live(request, self._options)
        return begin(request, self._options)

    def feed(self, job: FakeLiveJob, feed: Feed) -> None:
        job.cutter.feed(feed)

    def has_work(self, job: FakeLiveJob) -> bool:
        return job.has_work()

    def is_full(self, job: FakeLiveJob) -> bool:
        return job.is_full()

    def step(self, jobs: Sequence[FakeJob | FakeLiveJob]) -> Iterable[tuple[FakeJob | FakeLiveJob, Event | LiveEvent]]:
        """One piece of every job's answer."""
        options = self._options
        time.sleep(options.delay)
        _burn(options.burn)
        if options.noise:
            _make_noise()
        if options.oom_batch and len(jobs) > options.oom_batch:
            raise OutOfMemory(f"the test double was told to hold at most {options.oom_batch} jobs")
        for job in jobs:
            if job.steps + 1 == options.fault_step:
                yield from self._meet_in_step(job)
            if not job.over:
                yield from ((job, event) for event in job.advance())

    def close(self, job: FakeJob | FakeLiveJob) -> None:
        job.over = self._warm = True

    def footprint(self) -> int:
        return self._options.memory

    def _meet_in_step(self, job: FakeJob | FakeLiveJob) -> Iterable[tuple[FakeJob | FakeLiveJob, Event]]:
        """A fault of one job is that job's own, except those that take the process down or run out of memory."""
        try:
            self._meet("step", self._options.fail_step)
        except OutOfMemory:
            raise
        except BackendError as error:
            job.over = True
            yield job, error.to_event()

    def _meet(self, moment: str, fault: str) -> None:
        """Let the configured fault of `place` happen, unless it happened often enough."""
        options = self._options
        if moment != "load" and not self._warm:
            return
        oom = options.oom_at == moment and self._device.startswith(options.oom_device)
        crash, hang = options.crash_at == moment, options.hang_at == moment
        if not (oom or crash or hang or fault) or not self._counts():
            return
        if crash:
            os._exit(_CRASH_CODE)
        while hang:
            time.sleep(3600)
        if oom:
            raise OutOfMemory("the test double was told to run out of memory")
        if fault in _FAULTS:
            raise _FAULTS[fault]("the test double was told to fail")
        raise RuntimeError("the test double was told to fail in a way nobody planned")

    def _counts(self) -> bool:
        """Whether this fault is still due; counts it, across restarts where a counter file is named."""
        path = Path(self._options.counter_file) if self._options.counter_file else None
        if path is not None and path.exists():
            self._faults = int(path.read_text(encoding="utf-8"))
        if 0 <= self._options.fault_times <= self._faults:
            return False
        self._faults += 1
        if path is not None:
            path.write_text(str(self._faults), encoding="utf-8")
        return True


def _burn(seconds: float) -> None:
    """Keep a core busy without giving the interpreter lock away more often than a decode loop does."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(1000))


def _make_noise() -> None:
    """What careless libraries do: print, and write to the file descriptor behind Python's back."""
    print("the test double prints to stdout")
    sys.stdout.flush()
    os.write(1, b"the test double writes to descriptor 1\n")
