"""Live sessions of one Whisper against a clock of processor time: what one core with nothing else to do would show.

Used by `bench_realtime --one-core`. Audio comes at real-time pace of that clock, which moves on by the processor
seconds of each step, so that other work on the machine changes little. The backend runs in this process, without pool
and pipe.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backends.interface import ASR_SAMPLE_RATE, Done, Failed, ModelFiles, Placement, TranscriptionRequest
from backends.live import LiveAudio, LiveEnd, LiveRequest
from backends.model_sets import MODEL_SETS, locate
from backends.whisper.backend import WhisperBackend
from backends.whisper.live import LiveWhisperJob

PIECE = ASR_SAMPLE_RATE // 10


class Microphone:
    """One session and its audio, of which `fed` samples went out; it begins `delay` seconds late."""

    def __init__(self, backend: WhisperBackend, request: LiveRequest, audio: np.ndarray, delay: float) -> None:
        job = backend.start(request)
        assert isinstance(job, LiveWhisperJob)
        self.job, self.delay, self.is_over = job, delay, False
        self._backend, self._audio, self._fed = backend, audio, 0

    @property
    def next_at(self) -> float:
        """When the next piece is whole."""
        return self.delay + min(self._fed + PIECE, len(self._audio)) / ASR_SAMPLE_RATE

    def feed_until(self, now: float) -> None:
        while self._fed < len(self._audio) and self.next_at <= now:
            self._backend.feed(self.job, LiveAudio(self._audio[self._fed : self._fed + PIECE]))
            self._fed += PIECE
            if self._fed >= len(self._audio):
                self._backend.feed(self.job, LiveEnd())

    @property
    def is_fed(self) -> bool:
        return self._fed >= len(self._audio)


def loaded(model: str, folder: Path) -> WhisperBackend:
    """The model on one thread."""
    weights = locate(MODEL_SETS[model], folder / model).folder
    backend = WhisperBackend()
    files = ModelFiles(model, model, weights, folder, folder, {"cache_folder": str(folder / "graphs")})
    backend.load(files, Placement(dtype="int8", engine="onnx"))
    return backend


def ordinary(backend: WhisperBackend, request: TranscriptionRequest) -> Iterator[Any]:
    """The events of an ordinary transcription."""
    job = backend.start(request)
    event: Any = None
    while not isinstance(event, Done | Failed):
        for _, event in backend.step([job]):
            yield event


def simulated(
    backend: WhisperBackend, request: LiveRequest, audio: np.ndarray, delays: Sequence[float]
) -> Iterator[tuple[int, Any, float]]:
    """Events of all sessions: number of the session, event, and seconds after that session's begin."""
    microphones = [Microphone(backend, request, audio, delay) for delay in delays]
    numbers = {id(one.job): number for number, one in enumerate(microphones)}
    now = 0.0
    while not all(one.is_over for one in microphones):
        began = time.process_time()
        for one in microphones:
            one.feed_until(now)
        active = [one.job for one in microphones if not one.is_over and backend.has_work(one.job)]
        told = []
        for job, event in backend.step(active) if active else ():
            told.append((numbers[id(job)], event, now + time.process_time() - began))
        now += time.process_time() - began
        for number, event, at in told:
            microphones[number].is_over = microphones[number].is_over or isinstance(event, Done)
            yield number, event, at - microphones[number].delay
        if not active:
            now = max(now, min((one.next_at for one in microphones if not one.is_fed), default=now))
