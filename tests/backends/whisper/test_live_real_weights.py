"""Live sessions of published Whispers on real speech: what is told early, and that the whole is an ordinary answer."""

from __future__ import annotations

import numpy as np
import pytest

from backends.interface import Done, ModelFiles, Placement, TranscriptionRequest
from backends.live import LiveAudio, LiveCommit, LiveEnd, LiveRequest, TurnCommitted, TurnDelta, TurnDone
from backends.model_sets import MODEL_SETS
from backends.registry import check_options
from backends.whisper import live
from backends.whisper.backend import WhisperBackend
from backends.whisper.info import INFO
from tests.backends.whisper.spoken import error_rate
from tests.backends.whisper.test_live import drive, job_of, of, pieces
from tests.backends.whisper.test_real_weights import english, located, words  # noqa: F401 - a fixture
from tests.support.drive import run

pytestmark = [pytest.mark.real_weights, pytest.mark.slow]
RATE = 16_000


@pytest.fixture(scope="module", params=[name for name in MODEL_SETS if name.startswith("whisper")])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> WhisperBackend:
    folder = located(request.param, tmp_path_factory.mktemp(request.param)).folder
    cache = str(tmp_path_factory.mktemp("graphs"))
    files = ModelFiles("w", "w", folder, folder.parent, folder.parent, check_options(INFO, {"cache_folder": cache}))
    loaded = WhisperBackend()
    loaded.load(files, Placement(dtype="int8", engine="onnx", threads=2))
    return loaded


def test_words_come_while_they_are_said_and_the_whole_is_the_ordinary_text(
    backend: WhisperBackend,
    english: np.ndarray,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "_LONGEST_CHUNK", 0.6)  # a busy machine would decode less often
    job = job_of(backend, LiveRequest(language="en", turn_detection=None))
    told = drive(backend, job, pieces(english))
    early = "".join(event.text for event in of(told, TurnDelta))
    told = drive(backend, job, [LiveCommit(), LiveEnd()])
    text = of(told, TurnDone)[0].text
    done = run(backend, TranscriptionRequest(english, "en"))[0][-1]
    assert isinstance(done, Done)
    assert text == done.text.strip()
    said = words(text).split()
    assert len(early.split()) >= len(said) // 2
    # What is early is a guess at speech under a film's noises: most of it is what the whole text says.
    assert error_rate(" ".join(said[: len(early.split())]), words(early)) <= 0.5


def test_pauses_make_turns(backend: WhisperBackend, english: np.ndarray) -> None:  # noqa: F811
    audio = np.concatenate([english, np.zeros(RATE, np.float32)])
    told = drive(backend, job_of(backend, LiveRequest(language="en")), [LiveAudio(audio), LiveEnd()])
    committed, done = of(told, TurnCommitted), of(told, TurnDone)
    assert len(committed) == len(done) >= 2
    assert all(turn.text for turn in done)
    for turn, whole in zip(committed, done, strict=True):
        part = audio[round(turn.start * RATE) : round(turn.end * RATE)]
        ordinary = run(backend, TranscriptionRequest(part, "en"))[0][-1]
        assert isinstance(ordinary, Done)
        assert whole.text == ordinary.text.strip()
