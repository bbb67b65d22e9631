"""The diarization that the weight packages bring, and recordings of real voices that other packages bring."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from backends.diarization.backend import DiarizationBackend
from backends.diarization.diarizer import Diarizer, open_diarizer
from backends.diarization.info import DiarizationOptions
from backends.interface import ASR_SAMPLE_RATE, ModelFiles, Placement, Samples
from backends.model_sets import MODEL_SETS, locate, problems
from tests.backends.diarization.conversations import Piece, pieces_of

NAME = "diarization-community-1"
KNOWN = MODEL_SETS[NAME]


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the model's files, taken out of their package."""
    folder = tmp_path_factory.mktemp("models") / NAME
    if wrong := problems(KNOWN, folder):
        pytest.skip(f"{wrong[0]}: python scripts/bootstrap.py weights")
    return locate(KNOWN, folder).folder


@pytest.fixture(scope="session")
def diarizer(weights: Path) -> Diarizer:
    return open_diarizer(weights, DiarizationOptions(), threads=2)


@pytest.fixture(scope="session")
def backend(weights: Path) -> DiarizationBackend:
    loaded = DiarizationBackend()
    loaded.load(ModelFiles("diarize", NAME, weights, weights.parent, weights), Placement(threads=2))
    return loaded


@pytest.fixture(scope="session")
def voices() -> dict[str, list[Piece]]:
    """Pieces of three people's speech: a reader, and two actors who speak in turn."""
    reader, play = _recording("two_cities.wav"), _recording("endgame_nagg_nell.wav")

    def cut(*spans: tuple[float, float]) -> Samples:
        return np.concatenate([play[int(start * ASR_SAMPLE_RATE) : int(end * ASR_SAMPLE_RATE)] for start, end in spans])

    man = cut((4.75, 8.2), (11.9, 14.1), (20.3, 21.95), (23.65, 27.5))
    woman = cut((8.6, 11.45), (14.55, 17.0))
    return {"reader": pieces_of(reader), "man": pieces_of(man), "woman": pieces_of(woman)}


def _recording(name: str) -> Samples:
    """float32 [time] at 16 kHz of a recording inside the package of the weights."""
    path = Path(str(metadata.distribution("moonshine-voice").locate_file(f"moonshine_voice/assets/{name}")))
    samples, rate = soundfile.read(path, dtype="float32")
    return np.asarray(soxr.resample(samples, rate, ASR_SAMPLE_RATE), np.float32)
