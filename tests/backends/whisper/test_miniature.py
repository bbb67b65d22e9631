"""A Whisper that really transcribes: the trained miniature, end to end, on both engines and in both precisions."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from backends.interface import Done, ModelFiles, Placement, Segment, TranscriptionRequest
from backends.registry import check_options
from backends.whisper.backend import WhisperBackend
from backends.whisper.engine import TranscriptionResult, Whisper, load_whisper
from backends.whisper.info import INFO
from tests.backends.whisper.spoken import RATE, Recording, error_rate, record

MINIATURE = Path(__file__).parents[2] / "data" / "whisper_tiny"
KINDS = {f"{engine} {dtype}": (engine, dtype) for engine in ("onnx", "torch") for dtype in ("float32", "int8")}
MOST_ERRORS = 0.05


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, for graphs are built beside the weights."""
    target = tmp_path_factory.mktemp("miniature") / "whisper"
    shutil.copytree(MINIATURE, target)
    return target


@pytest.fixture(scope="session", params=KINDS)
def model(request: pytest.FixtureRequest, folder: Path) -> Whisper:
    engine, dtype = KINDS[request.param]
    return load_whisper(folder, engine=engine, dtype=dtype)


@pytest.fixture(scope="session")
def whisper(folder: Path) -> Whisper:
    return load_whisper(folder)


@pytest.fixture(scope="session")
def minutes() -> Recording:
    """Two minutes with pauses between the sentences."""
    return record(24, seed=5, gap=(2.8, 3.6))


def test_the_files_are_a_small_published_layout() -> None:
    files = {path.name: path.stat().st_size for path in MINIATURE.iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json"} <= set(files)
    assert 1_000_000 < sum(files.values()) < 3_000_000


@pytest.mark.parametrize("language", ["en", "de"])
def test_unseen_sentences_are_understood(model: Whisper, language: str) -> None:
    clips = [record(1, seed=seed, language=language, noise=None if seed % 2 else 30.0) for seed in range(100, 120)]
    recognized = [model.transcribe(clip.samples, language=language).text for clip in clips]
    assert error_rate(" ".join(clip.text for clip in clips), " ".join(recognized)) < MOST_ERRORS


def test_the_language_is_found(model: Whisper) -> None:
    for language, seed in itertools.product(("en", "de"), range(3)):
        transcript = model.transcribe(record(1, seed=200 + seed, language=language).samples)
        assert transcript.language == language


def test_german_is_translated(model: Whisper) -> None:
    clips = [record(1, seed=300 + seed, language="de") for seed in range(10)]
    recognized = [model.transcribe(clip.samples, language="de", task="translate").text for clip in clips]
    assert error_rate(" ".join(clip.translations[0] for clip in clips), " ".join(recognized)) < 0.1


def test_minutes_keep_every_sentence_in_its_place(model: Whisper, minutes: Recording) -> None:
    transcript = model.transcribe(minutes.samples, language="en")
    assert error_rate(minutes.text, transcript.text) < MOST_ERRORS
    starts = [segment.start for segment in transcript.segments]
    assert starts == sorted(starts)
    assert transcript.segments[-1].end <= len(minutes.samples) / RATE
    assert np.mean(starts_late(transcript, minutes) < 0.4) > 0.95
    near = [min(abs(end - segment.end) for segment in transcript.segments) < 0.4 for _, end in minutes.times]
    assert np.mean(near) > 0.9


def test_minutes_of_dense_speech_are_packed_into_windows(model: Whisper) -> None:
    dense = record(48, seed=5)
    transcript = model.transcribe(dense.samples, language="en")
    assert error_rate(dense.text, transcript.text) < MOST_ERRORS
    assert len({segment.seek for segment in transcript.segments}) < 8
    late = starts_late(transcript, dense)
    assert np.median(late) < 0.15
    assert np.mean(late < 0.4) > 0.95


def test_without_the_gate_windows_follow_their_timestamps(whisper: Whisper) -> None:
    """One stretch: every window begins where the last whole segment ended, and is told what was said before it."""
    errors, near = [], []
    for seed in (9, 11, 12):
        dense = record(24, seed=seed)
        transcript = whisper.transcribe(dense.samples, language="en", vad=False)
        errors.append(error_rate(dense.text, transcript.text))
        near.append(np.mean(starts_late(transcript, dense) < 0.4))
        seeks = sorted({segment.seek for segment in transcript.segments})
        assert len(seeks) >= 3
        assert all(0 < right - left <= 3000 for left, right in itertools.pairwise(seeks))
        assert transcript.segments[-1].end <= len(dense.samples) / RATE
    assert np.mean(errors) < MOST_ERRORS
    assert np.mean(near) > 0.9


def starts_late(transcript: TranscriptionResult, said: Recording) -> np.ndarray:
    """Seconds between the start of each sentence and the nearest start of a segment."""
    starts = np.array([segment.start for segment in transcript.segments])
    return np.array([np.abs(starts - start).min() for start, _ in said.times])


def test_words_are_where_they_were_said(model: Whisper) -> None:
    clips = [record(2, seed=400 + seed) for seed in range(5)]
    late: list[float] = []
    for clip in clips:
        transcript = model.transcribe(clip.samples, language="en", word_timestamps=True)
        assert " ".join(word.word for word in transcript.words) == transcript.text
        # espeak-ng speaks some neighbours ("in the") as one word; those recordings have no starts to compare with.
        if transcript.text == clip.text and len(clip.word_starts) == len(transcript.words):
            late += [abs(word.start - said) for word, said in zip(transcript.words, clip.word_starts, strict=True)]
        for segment in transcript.segments:
            assert all(segment.start - 0.01 <= word.start <= word.end <= segment.end + 0.01 for word in segment.words)
            times = [time for word in segment.words for time in (word.start, word.end)]
            assert times == sorted(times)
    assert len(late) > 30
    assert np.median(late) < 0.15


def test_the_words_of_both_engines_agree(folder: Path, whisper: Whisper) -> None:
    other = load_whisper(folder, engine="torch")
    clip = record(3, seed=450)
    words = [one.transcribe(clip.samples, language="en", word_timestamps=True).words for one in (whisper, other)]
    assert [word.word for word in words[0]] == [word.word for word in words[1]]
    assert max(abs(a.start - b.start) for a, b in zip(*words, strict=True)) <= 0.04


SILENCES = {
    "silence": np.zeros(3 * RATE),
    "noise": np.random.default_rng(0).standard_normal(3 * RATE) * 0.1,
    "quiet noise": np.random.default_rng(1).standard_normal(3 * RATE) * 0.001,
    "tone": 0.5 * np.sin(2 * np.pi * 440 * np.arange(3 * RATE) / RATE),
    "hum": 0.2 * np.sign(np.sin(2 * np.pi * 50 * np.arange(3 * RATE) / RATE)),
}


@pytest.mark.parametrize("kind", SILENCES)
def test_what_is_not_speech_has_no_text(model: Whisper, kind: str) -> None:
    transcript = model.transcribe(SILENCES[kind].astype(np.float32))
    assert transcript.text == ""
    assert transcript.segments == ()


def test_silence_around_speech_adds_nothing(whisper: Whisper) -> None:
    clip = record(1, seed=500)
    quiet = np.zeros(12 * RATE, np.float32)
    transcript = whisper.transcribe(np.concatenate([quiet, clip.samples, quiet, quiet, clip.samples, quiet]))
    assert transcript.text == f"{clip.text} {clip.text}"
    assert transcript.segments[0].start == pytest.approx(12 + clip.times[0][0], abs=0.4)


def test_a_prompt_and_a_temperature_do_no_harm(whisper: Whisper) -> None:
    clip = record(1, seed=510)
    assert whisper.transcribe(clip.samples, prompt="Peter buys five red books.").text == clip.text
    warm = whisper.transcribe(clip.samples, temperature=0.2)
    assert warm.segments[0].temperature == pytest.approx(0.2)
    assert warm.segments == whisper.transcribe(clip.samples, temperature=0.2).segments


def test_the_measures_of_a_segment_are_real(whisper: Whisper) -> None:
    segment = whisper.transcribe(record(1, seed=520).samples, language="en").segments[0]
    assert -0.8 < segment.avg_logprob < 0
    assert 0 <= segment.no_speech_prob < 0.5
    assert segment.compression_ratio > 0.5
    assert whisper.special.first_timestamp <= segment.tokens[0]
    assert whisper.tokenizer.decode(segment.tokens) == segment.text


# --- Through the backend ----------------------------------------------------------------------------------------------


def served(folder: Path, *requests: TranscriptionRequest) -> list[list[object]]:
    backend = WhisperBackend()
    backend.load(ModelFiles("tiny", str(folder), folder, folder, folder, check_options(INFO, {})), Placement())
    jobs = [backend.start(request) for request in requests]
    events: list[list[object]] = [[] for _ in jobs]
    active = list(jobs)
    while active:
        for job, event in backend.step(active):
            events[jobs.index(job)].append(event)  # type: ignore[arg-type]
        active = [job for job in active if not _over(events[jobs.index(job)])]
    return events


def _over(events: list[object]) -> bool:
    return bool(events) and isinstance(events[-1], Done)


def test_requests_together_get_what_they_get_alone(folder: Path) -> None:
    clips = [record(3, seed=600 + seed, language=language) for seed, language in enumerate(["en", "de", "en"])]
    together = served(folder, *(TranscriptionRequest(clip.samples) for clip in clips))
    for clip, events in zip(clips, together, strict=True):
        alone = served(folder, TranscriptionRequest(clip.samples))[0]
        assert [e.text for e in events if isinstance(e, Segment)] == [e.text for e in alone if isinstance(e, Segment)]
        done = events[-1]
        assert isinstance(done, Done)
        assert error_rate(clip.text, done.text) < MOST_ERRORS


def test_segments_of_a_long_file_come_before_its_end(folder: Path, minutes: Recording) -> None:
    backend = WhisperBackend()
    backend.load(ModelFiles("tiny", str(folder), folder, folder, folder, check_options(INFO, {})), Placement())
    job = backend.start(TranscriptionRequest(minutes.samples, language="en"))
    first = list(backend.step([job]))
    assert any(isinstance(event, Segment) for _, event in first)
    assert not any(isinstance(event, Done) for _, event in first)
