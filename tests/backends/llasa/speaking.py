"""A loaded backend, a clip to clone from, and requests spoken to their ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backends.interface import AudioChunk, Done, Event, Failed, ModelFiles, Placement, SpeechRequest
from backends.llasa.backend import LlasaBackend
from backends.registry import backend_info, check_options

PLACED = Placement(dtype="float32")


def loaded(models: Path, lm: Path, codec: Path, placement: Placement = PLACED, **options: Any) -> LlasaBackend:
    checked = check_options(backend_info("llasa"), {"codec_model": str(codec), **options})
    backend = LlasaBackend()
    backend.load(ModelFiles("tts", str(lm), lm, models, models / "user", checked), placement)
    return backend


def clip(seconds: float = 1.2, rate: int = 16_000) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * 180 * time) * np.sin(2 * np.pi * 3 * time)).astype(np.float32)


def run(backend: LlasaBackend, *requests: SpeechRequest) -> list[list[Event]]:
    """All requests side by side, to their ends."""
    return finish(backend, [backend.start(request) for request in requests])


def finish(backend: LlasaBackend, jobs: Sequence[Any]) -> list[list[Event]]:
    """What jobs give until they are over, each closed then."""
    events: dict[int, list[Event]] = {id(job): [] for job in jobs}
    active = list(jobs)
    while active:
        for job, event in backend.step(active):
            events[id(job)].append(event)
        for job in [job for job in active if events[id(job)] and isinstance(events[id(job)][-1], Done | Failed)]:
            backend.close(job)
            active.remove(job)
    return [events[id(job)] for job in jobs]


def spoken(backend: LlasaBackend, request: SpeechRequest) -> tuple[np.ndarray, Done]:
    return audio(run(backend, request)[0])


def audio(events: Sequence[Event]) -> tuple[np.ndarray, Done]:
    chunks = [event.samples for event in events if isinstance(event, AudioChunk)]
    done = events[-1]
    assert isinstance(done, Done)
    return np.concatenate(chunks) if chunks else np.zeros(0, np.float32), done
