"""Drives a backend as a worker does: one request at a time, step after step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from backends.embedded.espeak import EspeakBackend
from backends.embedded.pocketsphinx import PocketsphinxBackend
from backends.interface import (
    ASR_SAMPLE_RATE,
    AudioChunk,
    Backend,
    Done,
    Event,
    Failed,
    ModelFiles,
    Placement,
    Request,
    Samples,
    SpeechRequest,
)


def model(options: Mapping[str, Any] | None = None) -> ModelFiles:
    return ModelFiles("test", "", None, Path("models"), Path(), options or {})


def loaded_espeak(**options: Any) -> EspeakBackend:
    backend = EspeakBackend()
    backend.load(model(options), Placement())
    return backend


def loaded_pocketsphinx(**options: Any) -> PocketsphinxBackend:
    backend = PocketsphinxBackend()
    backend.load(model(options), Placement())
    return backend


def events(backend: Backend, request: Request) -> list[Event]:
    job = backend.start(request)
    found: list[Event] = []
    while not found or not isinstance(found[-1], Done | Failed):
        found.extend(event for _, event in backend.step([job]))
    backend.close(job)
    return found


def spoken(backend: Backend, text: str, voice: str = "en-us", **fields: Any) -> Samples:
    """All audio of one speech request, at the backend's own rate."""
    found = events(backend, SpeechRequest(text, voice, **fields))
    assert isinstance(found[-1], Done), found[-1]
    return np.concatenate([event.samples for event in found if isinstance(event, AudioChunk)])


def at_listening_rate(samples: Samples, rate: int = 22_050) -> Samples:
    return np.asarray(soxr.resample(samples, rate, ASR_SAMPLE_RATE), np.float32)
