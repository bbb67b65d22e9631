"""A loaded backend, a clip to clone from, and requests spoken to their end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backends.interface import Done, Event, ModelFiles, Placement, SpeechRequest
from backends.llasa.backend import LlasaBackend
from backends.registry import backend_info, check_options
from tests.support.drive import done_of, run, samples_of

PLACED = Placement(dtype="float32")


def loaded(models: Path, lm: Path, codec: Path, placement: Placement = PLACED, **options: Any) -> LlasaBackend:
    checked = check_options(backend_info("llasa"), {"codec_model": str(codec), **options})
    backend = LlasaBackend()
    backend.load(ModelFiles("tts", str(lm), lm, models, models / "user", checked), placement)
    return backend


def clip(seconds: float = 1.2, rate: int = 16_000) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * 180 * time) * np.sin(2 * np.pi * 3 * time)).astype(np.float32)


def spoken(backend: LlasaBackend, request: SpeechRequest) -> tuple[np.ndarray, Done]:
    return audio(run(backend, request)[0])


def audio(events: Sequence[Event]) -> tuple[np.ndarray, Done]:
    return samples_of(events), done_of(events)
