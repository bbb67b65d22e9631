"""Speech from the real espeak-ng library."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from backends.embedded.espeak import EspeakBackend
from backends.interface import (
    AudioChunk,
    ContextTurn,
    Done,
    Failed,
    InvalidInput,
    ModelUnavailable,
    Placement,
    SpeechRequest,
    TranscriptionRequest,
    VoiceSample,
)
from tests.backends.embedded.drive import events, loaded_espeak, model, spoken

TEXT = "The quick brown fox jumps over the lazy dog. It sleeps under the old oak tree by the river."


@pytest.fixture(scope="module")
def espeak() -> EspeakBackend:
    return loaded_espeak()


def test_it_tells_what_it_can_do() -> None:
    told = EspeakBackend().load(model(), Placement())
    assert (told.engine, told.device, told.sample_rate, told.native_speed) == ("espeak-ng", "cpu", 22_050, True)
    ids = [voice.id for voice in told.voices]
    assert {"alloy", "nova", "shimmer", "en-us", "en-gb", "de", "ja", "pt-br", "en-us+f3", "de+m3"} <= set(ids)
    assert len(ids) == len(set(ids))
    assert {voice.licence for voice in told.voices if voice.languages} == {"GPL-3.0-or-later (espeak-ng)"}


@pytest.mark.parametrize("speed", [0.25, 0.5, 0.75, 1.5, 2.0, 3.0, 4.0])
def test_duration_is_proportional_to_speed(espeak: EspeakBackend, speed: float) -> None:
    normal = len(spoken(espeak, TEXT))
    assert len(spoken(espeak, TEXT, speed=speed)) * speed == pytest.approx(normal, rel=0.08)


def test_slowed_speech_is_as_loud_as_normal_speech(espeak: EspeakBackend) -> None:
    """The stretch below 80 words per minute must not thin out or double the waveform."""
    normal, slow = spoken(espeak, TEXT), spoken(espeak, TEXT, speed=0.3)
    assert np.abs(slow).max() <= 1.2
    assert np.sqrt(np.mean(slow**2)) == pytest.approx(np.sqrt(np.mean(normal**2)), rel=0.2)


@pytest.mark.parametrize(
    ("voice", "text"),
    [
        ("en-us", "Good morning"),
        ("EN-GB", "Good morning"),
        ("en_us+f3", "Good morning"),
        ("gmw/en-US", "Good morning"),
        ("de", "Guten Morgen"),
        ("fr-fr+m3", "Bonjour"),
        ("ja", "おはようございます"),
        ("cmn", "早上好"),
        ("ru", "Доброе утро"),
        ("alloy", "Доброе утро"),
        ("nova", "おはようございます"),
        ("onyx", "Good morning"),
    ],
)
def test_many_voices_and_languages_speak(espeak: EspeakBackend, voice: str, text: str) -> None:
    samples = spoken(espeak, text, voice)
    assert 0.3 < len(samples) / 22_050 < 4
    assert np.abs(samples).max() > 0.1


def test_voices_differ(espeak: EspeakBackend) -> None:
    lengths = {voice: len(spoken(espeak, TEXT, voice)) for voice in ("en-us", "en-us+f3", "de", "en-us+linda")}
    assert len(set(lengths.values())) == len(lengths)


def test_each_sentence_is_a_chunk_and_the_first_comes_early(espeak: EspeakBackend) -> None:
    text = (TEXT + " ") * 60
    job = espeak.start(SpeechRequest(text[:4096], "en-us"))
    begun, sounds, first = time.process_time(), 0, 0.0
    over = False
    while not over:
        for _, event in espeak.step([job]):
            sounds += isinstance(event, AudioChunk)
            first = first or time.process_time() - begun
            over = isinstance(event, Done)
    assert sounds > 60
    assert first < 0.1 * (time.process_time() - begun)


def test_jobs_side_by_side_keep_their_own_voices(espeak: EspeakBackend) -> None:
    alone = {voice: len(spoken(espeak, TEXT, voice)) for voice in ("en-us", "de+f3")}
    jobs = {voice: espeak.start(SpeechRequest(TEXT, voice)) for voice in alone}
    lengths = dict.fromkeys(alone, 0)
    waiting = dict(jobs)
    while waiting:
        for job, event in list(espeak.step(list(waiting.values()))):
            voice = next(name for name, own in jobs.items() if own is job)
            if isinstance(event, AudioChunk):
                lengths[voice] += len(event.samples)
            if isinstance(event, Done):
                del waiting[voice]
    assert lengths == pytest.approx(alone, rel=0.05)


def test_markup_is_read_as_text(espeak: EspeakBackend) -> None:
    """As SSML or phoneme input these would last as long as one word, or pause for ten seconds."""
    word = len(spoken(espeak, "hello"))
    assert len(spoken(espeak, "<speak>hello</speak>")) > 2 * word
    assert len(spoken(espeak, "[[h@l'oU]]")) > word
    assert len(spoken(espeak, 'hello <break time="10s"/> you')) < 10 * 22_050


@pytest.mark.parametrize("text", ["...", "?!?", "\u200b\u200b", "- - -", "\u2026"])
def test_text_of_nothing_but_marks_is_a_short_silence(espeak: EspeakBackend, text: str) -> None:
    sound, last = events(espeak, SpeechRequest(text, "ja"))
    assert isinstance(sound, AudioChunk)
    assert isinstance(last, Done)
    assert len(sound.samples) == round(22_050 * 0.25)
    assert not sound.samples.any()
    assert "only marks" in " ".join(last.notes)


def test_letters_that_make_no_sound_are_an_error(espeak: EspeakBackend) -> None:
    last = events(espeak, SpeechRequest("\u13e3\u13b3\u13a9", "en-us"))[-1]  # Cherokee: read as nothing
    assert isinstance(last, Failed)
    assert (last.kind, last.param) == ("invalid_input", "input")
    assert "nothing to say" in last.message


@pytest.mark.parametrize(
    ("text", "voice", "param", "says"),
    [
        ("   \n ", "en-us", "input", "nothing to say"),
        ("hello", "klingonish", "voice", "klingonish"),
        ("hello", "en-us+nobody", "voice", r"en-us\+nobody"),
        ("hello", "../../etc", "voice", "no voice"),
        ("Доброе утро", "en-us", "input", "Cyrillic letters; the voice ru can"),
        ("日本語です", "ja", "input", "kanji"),
        ("日本語です", "alloy", "input", "kanji"),
        ("これはペンと水です", "ja", "input", "kanji"),
        ("世界", "en-us", "input", "Chinese letters; the voice cmn can"),
        ("Hello 世界和平", "de", "input", "Chinese letters; the voice cmn can"),
        ("good morning", "ja", "input", "Latin letters; the voice en-us can"),
        ("ภาษาไทย", "fr", "input", "Thai letters; the voice th can"),
        ("ܫܠܡܐ", "en-us", "input", "Syriac letters; no voice"),
    ],
)
def test_what_cannot_be_spoken_is_refused(espeak: EspeakBackend, text: str, voice: str, param: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        espeak.start(SpeechRequest(text, voice))
    assert caught.value.param == param


def test_a_lone_letter_is_said_by_its_name(espeak: EspeakBackend) -> None:
    text = "The angle called {} is smaller than the other one in this drawing"
    last = events(espeak, SpeechRequest(text.format("α"), "en-us"))[-1]
    assert isinstance(last, Done)
    assert last.notes == ()
    assert len(spoken(espeak, text.format("α"))) > len(spoken(espeak, text.format("")))


def test_a_few_foreign_letters_are_left_out_and_the_answer_says_so(espeak: EspeakBackend) -> None:
    last = events(espeak, SpeechRequest("Hello 世界", "en-us"))[-1]
    assert isinstance(last, Done)
    assert last.notes == ("left out 2 letters that the espeak-ng voice en-us cannot read: 世界",)
    assert len(spoken(espeak, "Hello 世界")) == pytest.approx(len(spoken(espeak, "Hello")), rel=0.05)


def test_voices_without_a_dictionary_are_not_offered(espeak: EspeakBackend) -> None:
    """Each of the others makes a sound of a letter of some script."""
    library = espeak._library
    for voice in library.voices():
        assert library.set_voice(voice.identifier)
        assert library.phonemes("a ა 世 \uf8d0"), voice.identifier
    with pytest.raises(InvalidInput, match="no voice 'fo'"):
        espeak.start(SpeechRequest("hello", "fo"))


def test_cloning_and_other_tasks_are_refused(espeak: EspeakBackend) -> None:
    with pytest.raises(InvalidInput, match="clone") as told:
        espeak.start(SpeechRequest("hello", "en-us", reference=VoiceSample(np.zeros(9, np.float32))))
    assert told.value.param == "reference_audio"  # the field of the request
    with pytest.raises(InvalidInput, match="speech only"):
        espeak.start(TranscriptionRequest(np.zeros(9, np.float32)))


@pytest.mark.parametrize(
    ("unused", "named"),
    [
        ({"instructions": "whisper it"}, ["instructions"]),
        ({"context": (ContextTurn("0", "Where were you?"),)}, ["context"]),
        ({"options": {"temperature": 0.9}}, ["options"]),
        ({"options": {"top_k": 5}, "instructions": "cry"}, ["instructions", "options"]),
        ({"instructions": " ", "seed": 3}, []),
    ],
)
def test_what_is_not_used_is_admitted(espeak: EspeakBackend, unused: dict[str, Any], named: list[str]) -> None:
    last = events(espeak, SpeechRequest("hello", "en-us", **unused))[-1]
    assert isinstance(last, Done)
    assert [
        word for word in ("instructions", "context", "options") if any(word in note for note in last.notes)
    ] == named


@pytest.mark.parametrize(
    "options", [{"words_per_minute": 5}, {"pitch": 100}, {"voice": "nowhere"}, {"sentence_gap_ms": -1}]
)
def test_options_out_of_range_are_named(options: dict[str, object]) -> None:
    with pytest.raises(ModelUnavailable, match=f"option {next(iter(options))}"):
        EspeakBackend().load(model(options), Placement())


def test_the_canary_speaks(espeak: EspeakBackend) -> None:
    assert isinstance(events(espeak, espeak.canary())[-1], Done)
    assert espeak.footprint() > 0
