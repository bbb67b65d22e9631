"""Five people: the recordings of three, and two neural voices that are unlike each other."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import soxr

from backends.data_packages import is_installed
from backends.diarization.clustering import SpeakerLimits
from backends.diarization.diarizer import Diarizer
from backends.embedded.voice_files import JOE_FILES, KOKORO_FILES
from backends.embedded.voices import VoicesBackend
from backends.interface import ASR_SAMPLE_RATE, AudioChunk, ModelFiles, Placement, Samples, SpeechRequest
from tests.backends.diarization.conversations import Piece, converse, error_rate, pieces_of
from tests.backends.embedded.drive import events

pytestmark = [
    pytest.mark.real_weights,
    pytest.mark.slow,
    pytest.mark.skipif(
        not is_installed(*JOE_FILES, *KOKORO_FILES) or importlib.util.find_spec("pyopenjtalk") is None,
        reason="the neural voices are not installed: python scripts/bootstrap.py weights",
    ),
]

ENGLISH = (
    "Please open the front door before you leave. The weather has been fine all week, and we walked along the river. "
    "My brother lives in a small town near the sea, where he repairs old boats. Nobody remembered to bring the keys, "
    "so we waited outside for an hour."
)
JAPANESE = (
    "明日は早く起きます。駅の前で待っています。今日は天気がいいので、川のそばを歩きました。"
    "弟は海の近くの小さな町に住んでいます。鍵を忘れたので、外で一時間待ちました。"
)


@pytest.fixture(scope="module")
def neural() -> dict[str, list[Piece]]:
    backend = VoicesBackend()
    backend.load(ModelFiles("test", "", None, Path("models"), Path()), Placement(engine="neural"))
    spoken = {"alloy": ENGLISH, "jm_kumo": JAPANESE}
    return {voice: pieces_of(_speech(backend, text, voice)) for voice, text in spoken.items()}


def _speech(backend: VoicesBackend, text: str, voice: str) -> Samples:
    chunks = [event for event in events(backend, SpeechRequest(text, voice)) if isinstance(event, AudioChunk)]
    samples = np.concatenate([chunk.samples for chunk in chunks])
    return np.asarray(soxr.resample(samples, chunks[0].rate, ASR_SAMPLE_RATE), np.float32)


def test_five_voices_are_told_apart_without_their_number(
    diarizer: Diarizer, voices: dict[str, list[Piece]], neural: dict[str, list[Piece]]
) -> None:
    people = [*voices.values(), *neural.values()]
    talk = converse(people, 14, seed=0)
    recording = diarizer.recording(talk.samples)
    while not recording.done:
        recording.advance(8)
    found = diarizer.speaker_turns(recording, SpeakerLimits())
    assert len({turn.speaker for turn in found.turns}) == len(people)
    assert error_rate(talk.turns, found.turns, talk.duration) < 0.10
