"""Live sessions of Whisper: turns, final texts equal to ordinary ones, confirmed words, and steps shared by all."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.device_loss import device_lost
from backends.interface import Done, Failed, InvalidInput, ModelFiles, Placement, Samples, TranscriptionRequest
from backends.live import (
    CommitRefused,
    Feed,
    LiveAudio,
    LiveClear,
    LiveCleared,
    LiveCommit,
    LiveEnd,
    LiveEvent,
    LiveRequest,
    LiveSettings,
    TurnCommitted,
    TurnDelta,
    TurnDetection,
    TurnDone,
    TurnFailed,
    TurnStarted,
    TurnStopped,
)
from backends.registry import check_options
from backends.whisper.active_window import ActiveWindow
from backends.whisper.backend import WhisperBackend
from backends.whisper.info import INFO
from backends.whisper.live import LiveWhisperJob
from tests.backends.whisper.spoken import Recording, record
from tests.support.drive import run

RATE = 16_000
PIECE = RATE // 10
ENGLISH = LiveRequest(language="en")
MANUAL = LiveRequest(language="en", turn_detection=None)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> WhisperBackend:
    """The trained miniature, on graphs of its own."""
    folder = tmp_path_factory.mktemp("live") / "whisper"
    shutil.copytree(Path(__file__).parents[2] / "data" / "whisper_tiny", folder)
    loaded = WhisperBackend()
    files = ModelFiles("w", "w", folder, folder.parent, folder.parent, check_options(INFO, {}))
    capabilities = loaded.load(files, Placement(dtype="float32", engine="onnx"))
    assert capabilities.live
    return loaded


@pytest.fixture(scope="module")
def spoken() -> Recording:
    """Three sentences with pauses of a second."""
    return record(3, seed=5, gap=(1.0, 1.1), noise=50)


@pytest.fixture(scope="module")
def long() -> Recording:
    """Four sentences without a pause that ends a turn."""
    return record(4, seed=8, gap=(0.1, 0.15), noise=50)


def job_of(backend: WhisperBackend, request: LiveRequest) -> LiveWhisperJob:
    job = backend.start(request)
    assert isinstance(job, LiveWhisperJob)
    return job


def pieces(samples: Samples) -> Iterator[LiveAudio]:
    for first in range(0, len(samples), PIECE):
        yield LiveAudio(samples[first : first + PIECE])


def drive(backend: WhisperBackend, job: LiveWhisperJob, feeds: Sequence[Feed] | Iterator[Feed]) -> list[Any]:
    """Feed one thing after another, with all the steps that there is work for in between."""
    told: list[Any] = []
    for feed in feeds:
        backend.feed(job, feed)
        while backend.has_work(job) and not (told and isinstance(told[-1], Done)):
            told += [event for _, event in backend.step([job])]
    return told


def of(events: Sequence[LiveEvent], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def deltas(events: Sequence[LiveEvent], turn: int) -> str:
    return "".join(event.text for event in events if isinstance(event, TurnDelta) and event.turn == turn)


def ordinary(backend: WhisperBackend, samples: Samples) -> str:
    """What the HTTP route gives for this audio."""
    done = run(backend, TranscriptionRequest(samples, "en"))[0][-1]
    assert isinstance(done, Done)
    return done.text.strip()


def test_each_sentence_is_a_turn_whose_text_is_that_of_an_ordinary_transcription(
    backend: WhisperBackend, spoken: Recording
) -> None:
    audio = np.concatenate([spoken.samples, np.zeros(RATE, np.float32)])
    told = drive(backend, job_of(backend, ENGLISH), [*pieces(audio), LiveEnd()])
    committed, done = of(told, TurnCommitted), of(told, TurnDone)
    assert [turn.turn for turn in done] == [0, 1, 2]
    for turn, whole, (start, end) in zip(committed, done, spoken.times, strict=True):
        assert turn.start <= start
        assert turn.end >= end
        assert whole.seconds == pytest.approx(turn.end - turn.start)
        assert whole.text == ordinary(backend, audio[round(turn.start * RATE) : round(turn.end * RATE)])
    assert " ".join(turn.text for turn in done) == spoken.text
    assert isinstance(told[-1], Done)
    assert told[-1].usage.audio_seconds == pytest.approx(len(audio) / RATE, abs=0.1)


def test_events_of_a_turn_come_in_order(backend: WhisperBackend, spoken: Recording) -> None:
    told = drive(backend, job_of(backend, ENGLISH), [*pieces(spoken.samples), LiveEnd()])
    first = [type(event) for event in told if getattr(event, "turn", None) == 0 and not isinstance(event, TurnDelta)]
    assert first == [TurnStarted, TurnStopped, TurnCommitted, TurnDone]


def test_words_are_told_while_they_are_said_and_never_taken_back(backend: WhisperBackend, long: Recording) -> None:
    """One long turn: most of it is told before its end, and the final text begins with what was told."""
    job = job_of(backend, MANUAL)
    told = drive(backend, job, pieces(long.samples))
    early = deltas(told, 0)
    assert len(early.split()) >= len(long.text.split()) // 2
    told += drive(backend, job, [LiveCommit(), LiveEnd()])
    text = of(told, TurnDone)[0].text
    if text.startswith(early):
        assert deltas(told, 0) == text
    else:
        assert deltas(told, 0) == early


def test_between_decodes_a_session_keeps_no_encoded_audio(backend: WhisperBackend, long: Recording) -> None:
    """Of a large model that is hundreds of megabytes for each session."""
    job = job_of(backend, MANUAL)
    assert of(drive(backend, job, pieces(long.samples[: 4 * RATE])), TurnDelta)
    gc.collect()
    assert not [item for item in gc.get_objects() if type(item) is ActiveWindow]
    backend.close(job)


def test_an_endless_turn_is_decoded_in_a_window_that_moves_on(backend: WhisperBackend) -> None:
    long = record(14, seed=9, gap=(0.1, 0.2), noise=50)
    assert len(long.samples) > 31 * RATE
    job = job_of(backend, MANUAL)
    told = drive(backend, job, pieces(long.samples))
    early = deltas(told, 0).split()
    assert len(early) >= len(long.text.split()) // 2
    assert job._open is not None
    assert job._open.begin > 10 * RATE
    assert job._open.turn.audio.end - job._open.begin <= 30 * RATE
    assert of(drive(backend, job, [LiveCommit(), LiveEnd()]), TurnDone)[0].text == ordinary(backend, long.samples)


def test_silence_is_never_decoded(backend: WhisperBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend.whisper, "work", lambda items: pytest.fail("nobody spoke"))
    quiet = [*pieces(np.zeros(5 * RATE, np.float32)), LiveCommit()]
    for request in (ENGLISH, LiveRequest(language="en", turn_detection=TurnDetection(threshold=0.9))):
        assert of(drive(backend, job_of(backend, request), [*quiet, LiveEnd()]), CommitRefused)
    assert drive(backend, job_of(backend, MANUAL), quiet[:-1]) == []


def test_the_client_may_clear_and_change_its_mind(backend: WhisperBackend, spoken: Recording) -> None:
    start, end = (round(time * RATE) for time in spoken.times[0])
    sentence = spoken.samples[start - 2000 : end + 2000]
    job = job_of(backend, MANUAL)
    told = drive(backend, job, [LiveAudio(sentence), LiveClear(), LiveAudio(sentence), LiveSettings(ENGLISH)])
    assert of(told, LiveCleared)
    told += drive(backend, job, [*pieces(np.zeros(RATE, np.float32)), LiveEnd()])
    assert [turn.text for turn in of(told, TurnDone)] == [spoken.sentences[0]]


def test_log_probabilities_are_told_where_they_are_asked_for(backend: WhisperBackend, spoken: Recording) -> None:
    request = LiveRequest(language="en", logprobs=True, turn_detection=None)
    told = drive(backend, job_of(backend, request), [*pieces(spoken.samples), LiveCommit(), LiveEnd()])
    done = of(told, TurnDone)[0]
    assert "".join(one.token for one in done.logprobs).strip() == done.text
    early = [event for event in of(told, TurnDelta) if event.logprobs]
    assert early
    assert all(
        event.text == "".join(one.token for one in event.logprobs).lstrip() or event.turn == 0 for event in early
    )


def test_a_language_that_the_model_does_not_know(backend: WhisperBackend, spoken: Recording) -> None:
    wrong = LiveRequest(language="klingon", turn_detection=None)
    with pytest.raises(InvalidInput):
        backend.start(wrong)
    told = drive(
        backend, job_of(backend, MANUAL), [LiveSettings(wrong), *pieces(spoken.samples), LiveCommit(), LiveEnd()]
    )
    assert [event.failure.param for event in of(told, TurnFailed)] == ["language"]
    assert isinstance(told[-1], Done)


# --- Steps shared by several ------------------------------------------------------------------------------------------


def test_all_microphones_and_uploads_share_a_step(
    backend: WhisperBackend, spoken: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, sizes = backend.whisper.work, []
    monkeypatch.setattr(backend.whisper, "work", lambda items: (sizes.append(len(items)), work(items)))
    talk = spoken.samples[round(spoken.times[0][0] * RATE) :][: 2 * RATE]
    jobs: list[Any] = [job_of(backend, MANUAL) for _ in range(3)]
    for job in jobs:
        backend.feed(job, LiveAudio(talk))
    jobs.append(backend.start(TranscriptionRequest(spoken.samples, "en")))
    list(backend.step(jobs))
    assert sizes == [4]
    backend.feed(jobs[0], LiveCommit())
    for job in jobs[1:3]:
        backend.feed(job, LiveAudio(spoken.samples[: 4 * RATE]))
    list(backend.step(jobs[:3]))
    assert sizes == [4, 1], "what is complete goes first"
    list(backend.step(jobs[1:3]))
    assert sizes == [4, 1, 2]


def test_a_turn_that_cannot_be_decoded_fails_and_the_session_goes_on(
    backend: WhisperBackend, spoken: Recording, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job, other = job_of(backend, MANUAL), job_of(backend, MANUAL)

    def broken(items: Any) -> None:
        raise ValueError("broken")

    for one in (job, other):
        backend.feed(one, LiveAudio(spoken.samples))
    with monkeypatch.context() as patch:
        patch.setattr(backend.whisper, "work", broken)
        assert list(backend.step([job])) == [], "an early decode is dropped"
        backend.feed(job, LiveCommit())
        with pytest.raises(ValueError, match="broken"):
            list(backend.step([job, other]))  # which the worker repeats one by one
        told = [event for _, event in backend.step([job])]
        assert told == [TurnFailed(0, Failed("internal", "ValueError: broken"))]
    backend.feed(job, LiveAudio(spoken.samples))
    told = drive(backend, job, [LiveCommit(), LiveEnd()])
    assert of(told, TurnDone)[0].text == ordinary(backend, spoken.samples)
    assert "ValueError: broken" in capsys.readouterr().err


def test_a_lost_device_is_no_fault_of_a_turn(
    backend: WhisperBackend, spoken: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = RuntimeError("DmlCommandQueue.cpp(71) 887A0005 The GPU device instance has been suspended.")
    assert device_lost(lost)

    def broken(items: Any) -> None:
        raise lost

    monkeypatch.setattr(backend.whisper, "work", broken)
    job = job_of(backend, MANUAL)
    backend.feed(job, LiveAudio(spoken.samples))
    backend.feed(job, LiveCommit())
    with pytest.raises(RuntimeError, match="suspended"):
        list(backend.step([job]))


def test_a_session_takes_no_more_than_it_can_hold(backend: WhisperBackend) -> None:
    job = job_of(backend, MANUAL)
    second = LiveAudio(np.zeros(RATE, np.float32))
    for _ in range(8):
        assert not backend.is_full(job)
        backend.feed(job, second)
        backend.feed(job, LiveCommit())
    assert backend.is_full(job)
    assert backend.has_work(job)
    backend.close(job)
    assert not backend.is_full(job)


def test_live_windows_are_as_short_as_what_is_said_and_final_ones_are_whole(
    backend: WhisperBackend, spoken: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, frames = backend.whisper.work, []
    monkeypatch.setattr(
        backend.whisper, "work", lambda items: (frames.append([item.frames for item in items]), work(items))
    )
    job = job_of(backend, MANUAL)
    backend.feed(job, LiveAudio(spoken.samples[: 3 * RATE]))
    list(backend.step([job]))
    backend.feed(job, LiveCommit())
    list(backend.step([job]))
    assert frames == [[800], [0]]
    monkeypatch.setattr(backend.whisper.network, "short_windows", False)
    whole = job_of(backend, MANUAL)
    backend.feed(whole, LiveAudio(spoken.samples[: 3 * RATE]))
    list(backend.step([whole]))
    assert frames[2:] == [[0]]
