"""The embedded voices and ears hear each other: real weights on both sides, each language within its bound."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import soxr

from backends.audio.error_rate import error_rate
from backends.data_packages import is_installed
from backends.embedded.voice_catalog import PACKAGED_STYLES
from backends.embedded.voice_files import JOE_FILES, KOKORO_FILES
from backends.embedded.voices import VoicesBackend
from backends.interface import AudioChunk, ModelFiles, Placement, Samples, SpeechRequest
from backends.model_sets import MODEL_SETS, locate, problems
from backends.whisper.engine import Whisper, load_whisper
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
    "Please open the front door before you leave. She sells fresh bread and butter in the market. "
    "The children are playing in the garden behind the house. It takes about an hour to walk to the school."
)
JAPANESE = (
    "昨日は友達と映画を見に行きました。とても面白かったです。"
    "明日の朝、駅の前で会いましょう。この近くにおいしいレストランがあります。"
)
VOICES = [("en_US-joe-medium", ENGLISH, "en"), *((name, JAPANESE, "ja") for name in PACKAGED_STYLES)]
# Words or characters lost. The voices of kana readings alone say a few words as their neighbours.
BOUNDS = {"en": 0.08, "ja": 0.12}


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Whisper:
    known, folder = MODEL_SETS["whisper-base"], tmp_path_factory.mktemp("base")
    if wrong := problems(known, folder):
        pytest.skip(wrong[0])
    return load_whisper(locate(known, folder).folder, dtype="int8")


@pytest.fixture(scope="module")
def voices() -> VoicesBackend:
    backend = VoicesBackend()
    backend.load(ModelFiles("test", "", None, Path("models"), Path()), Placement(engine="neural"))
    return backend


def spoken(backend: VoicesBackend, text: str, voice: str) -> Samples:
    """All of a request at 16 kHz."""
    chunks = [event for event in events(backend, SpeechRequest(text, voice)) if isinstance(event, AudioChunk)]
    joined = np.concatenate([chunk.samples for chunk in chunks])
    return np.asarray(soxr.resample(joined, chunks[0].rate, 16_000), np.float32)


@pytest.mark.parametrize(("voice", "text", "language"), VOICES, ids=[voice for voice, *_ in VOICES])
def test_a_voice_is_understood_and_its_language_detected(
    voices: VoicesBackend, whisper: Whisper, voice: str, text: str, language: str
) -> None:
    result = whisper.transcribe(spoken(voices, text, voice))
    assert result.language == language
    assert error_rate(text, result.text, language) <= BOUNDS[language], result.text


def test_japanese_speech_is_translated(voices: VoicesBackend, whisper: Whisper) -> None:
    sound = spoken(voices, "昨日は友達と映画を見に行きました。", "jf_alpha")
    result = whisper.transcribe(sound, task="translate")
    assert result.language == "ja"
    assert result.text.isascii()
    assert {"movie", "friend", "yesterday"} & {
        word.strip(".,").removesuffix("s") for word in result.text.lower().split()
    }


def test_words_lie_within_the_speech_and_in_order(voices: VoicesBackend, whisper: Whisper) -> None:
    sound = spoken(voices, ENGLISH, "en_US-joe-medium")
    words = whisper.transcribe(sound, language="en", word_timestamps=True).words
    assert len(words) >= 35
    starts = [word.start for word in words]
    assert starts == sorted(starts)
    assert all(word.start <= word.end <= len(sound) / 16_000 for word in words)
