"""The test double itself: its answers can be computed, its faults happen where and as often as told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.fake.backend import FakeBackend
from backends.fake.info import INFO
from backends.fake.jobs import FakeJob, speech_samples, transcript_words
from backends.interface import (
    AudioChunk,
    AudioPart,
    ChatRequest,
    Done,
    Event,
    InvalidInput,
    Message,
    ModelFiles,
    OutOfMemory,
    Placement,
    Request,
    Segment,
    SpeechRequest,
    TextDelta,
    TextPart,
    TranscriptionRequest,
)
from backends.registry import UnknownOption, check_options


def loaded(device: str = "cpu", **options: Any) -> FakeBackend:
    backend = FakeBackend()
    files = ModelFiles("d", "", None, Path("m"), Path("u"), check_options(INFO, options))
    backend.load(files, Placement(device))
    return backend


def events(backend: FakeBackend, request: Request) -> list[Event]:
    job = backend.start(request)
    found: list[Event] = []
    while not job.over:
        found += [event for _, event in backend.step([job])]
    backend.close(job)
    return found


def warm(backend: FakeBackend) -> FakeBackend:
    events(backend, backend.canary())
    return backend


def said(text: str, seconds: float = 0.0, **keys: Any) -> ChatRequest:
    sound = (AudioPart(np.zeros(round(seconds * 16_000), np.float32)),) if seconds else ()
    return ChatRequest((Message("user", (TextPart(text), *sound)),), **keys)


def test_a_transcript_follows_from_the_length() -> None:
    found = events(loaded(), TranscriptionRequest(np.zeros(16_000 * 12, np.float32), words=True))
    done = found[-1]
    assert isinstance(done, Done)
    assert done.text.split() == list(transcript_words(12))
    assert "".join(e.text for e in found if isinstance(e, TextDelta)) == done.text
    segments = [e for e in found if isinstance(e, Segment)]
    assert [(s.start, s.end) for s in segments] == [(0, 10), (10, 12)]
    assert "".join(s.text for s in segments).strip() == done.text
    assert done.usage.audio_seconds == 12


def test_silence_shorter_than_a_word_is_empty() -> None:
    found = events(loaded(), TranscriptionRequest(np.zeros(100, np.float32)))
    assert isinstance(found[-1], Done)
    assert found[-1].text == ""


def test_speech_is_one_tone_per_character() -> None:
    text = "hello world, this is long enough for several pieces"
    found = events(loaded(task="speech"), SpeechRequest(text, "fake-low"))
    audio = np.concatenate([e.samples for e in found if isinstance(e, AudioChunk)])
    assert len(audio) == len(text) * 1440
    assert np.array_equal(audio, speech_samples(text))
    assert 0.2 < np.abs(audio).max() < 0.31
    assert len([e for e in found if isinstance(e, AudioChunk)]) == 4


def test_speed_is_honoured_only_where_the_option_says_so() -> None:
    for native, expected in ((False, 1440 * 4), (True, 720 * 4)):
        found = events(loaded(task="speech", native_speed=native), SpeechRequest("abcd", "fake-low", speed=2.0))
        assert sum(len(e.samples) for e in found if isinstance(e, AudioChunk)) == expected


def test_chat_repeats_the_audio_and_the_text() -> None:
    found = events(loaded(task="chat"), said("good  day", 1.5))
    assert isinstance(found[-1], Done)
    assert found[-1].text == "I heard 1.5 seconds of audio. You said: good  day"
    assert "".join(e.text for e in found if isinstance(e, TextDelta)) == found[-1].text
    assert found[-1].usage.input_audio_tokens == 15


@pytest.mark.parametrize(
    ("keys", "text", "reason"),
    [
        ({"max_tokens": 3}, "You said: a", "length"),
        ({"max_tokens": 99}, "You said: a b c", "stop"),
        ({"stop": (" b",)}, "You said: a", "stop"),
        ({"stop": ("said", "b")}, "You ", "stop"),
        ({"max_tokens": 0}, "", "length"),
    ],
)
def test_chat_honours_max_tokens_and_stop(keys: dict[str, Any], text: str, reason: str) -> None:
    done = events(loaded(task="chat"), said("a b c", **keys))[-1]
    assert isinstance(done, Done)
    assert (done.text, done.finish_reason) == (text, reason)


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(InvalidInput, match="does speech"):
        loaded(task="speech").start(said("a"))
    with pytest.raises(InvalidInput, match="voice"):
        loaded(task="speech").start(SpeechRequest("a", "nobody"))
    with pytest.raises(InvalidInput, match="speakers"):
        loaded().start(TranscriptionRequest(np.zeros(10, np.float32), diarize=True))
    with pytest.raises(UnknownOption, match="no option"):
        check_options(INFO, {"delays": 1.0})


def test_speakers_alternate() -> None:
    found = events(loaded(diarization=True), TranscriptionRequest(np.zeros(16_000 * 25, np.float32), diarize=True))
    assert [e.speaker for e in found if isinstance(e, Segment)] == ["A", "B", "A"]


def test_steps_spread_the_pieces() -> None:
    backend = loaded(task="speech", steps=10)
    job = backend.start(SpeechRequest("x" * 48, "fake-low"))
    assert isinstance(job, FakeJob)
    chunks = [sum(isinstance(e, AudioChunk) for _, e in backend.step([job])) for _ in range(10)]
    assert sum(chunks) == 3
    assert job.over


def test_memory_is_claimed_or_really_filled() -> None:
    assert loaded(memory=1000).footprint() == 1000
    assert loaded(memory=1000)._ballast == []
    assert [len(part) for part in loaded(memory=1000, allocate=True)._ballast] == [1000]


def test_faults_spare_the_warm_up_and_are_counted(tmp_path: Path) -> None:
    options = {"oom_at": "start", "fault_times": 2, "counter_file": str(tmp_path / "n")}
    for _ in range(2):  # a restart in between
        backend = warm(loaded(**options))
        with pytest.raises(OutOfMemory):
            backend.start(TranscriptionRequest(np.zeros(10, np.float32)))
    assert events(warm(loaded(**options)), TranscriptionRequest(np.zeros(10, np.float32)))


def test_out_of_memory_can_be_one_devices_own() -> None:
    with pytest.raises(OutOfMemory):
        loaded("cuda:0", oom_at="load", oom_device="cuda")
    loaded("cpu", oom_at="load", oom_device="cuda")


def test_too_large_a_step_runs_out_of_memory() -> None:
    backend = loaded(oom_batch=1)
    jobs = [backend.start(TranscriptionRequest(np.zeros(10, np.float32))) for _ in range(2)]
    with pytest.raises(OutOfMemory):
        list(backend.step(jobs))
    assert [type(e) for _, e in backend.step(jobs[:1])][-1] is Done
