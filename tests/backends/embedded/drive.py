"""The embedded backends, loaded, and one request of theirs at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from backends.embedded.espeak import EspeakBackend
from backends.interface import (
    ASR_SAMPLE_RATE,
    Backend,
    Event,
    ModelFiles,
    Placement,
    Request,
    Samples,
    SpeechRequest,
)
from tests.support.drive import done_of, run, samples_of


def model(options: Mapping[str, Any] | None = None) -> ModelFiles:
    return ModelFiles("test", "", None, Path("models"), Path(), options or {})


def loaded_espeak(**options: Any) -> EspeakBackend:
    backend = EspeakBackend()
    backend.load(model(options), Placement())
    return backend


def events(backend: Backend, request: Request) -> list[Event]:
    return run(backend, request)[0]


def spoken(backend: Backend, text: str, voice: str = "en-us", **fields: Any) -> Samples:
    """All audio of one speech request, at the backend's own rate."""
    found = events(backend, SpeechRequest(text, voice, **fields))
    assert done_of(found)
    return samples_of(found)


def at_asr_rate(samples: Samples, rate: int = 22_050) -> Samples:
    return np.asarray(soxr.resample(samples, rate, ASR_SAMPLE_RATE), np.float32)
