"""What the self-test makes of voices and ears, with stand-ins for both."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from backends import selftest
from backends.interface import (
    AudioChunk,
    Capabilities,
    Done,
    Event,
    Failed,
    Job,
    ModelFiles,
    ModelUnavailable,
    Placement,
    Request,
    SpeechRequest,
    TranscriptionRequest,
    Voice,
)

NEURAL = (Voice("joe", "Joe", ("en-US",)), Voice("jf_alpha", "Alpha", ("ja-JP",)))


class Double:
    """Voices and ears at once: hears what `transcripts` says for the language, or fails."""

    def __init__(self, voices: tuple[Voice, ...], languages: tuple[str, ...], transcripts: dict[str, str]) -> None:
        self.voices, self.languages, self.transcripts = voices, languages, transcripts
        self.failure: Failed | None = None
        self.notes: tuple[str, ...] = ()

    def load(self, model: ModelFiles, placement: Placement) -> Capabilities:
        detail = {"neural_voices": [voice.id for voice in self.voices]}
        return Capabilities("double", "cpu", "int8", 1, languages=self.languages, voices=self.voices, detail=detail)

    def start(self, request: Request) -> Job:
        return request

    def step(self, jobs: Sequence[Job]) -> Iterable[tuple[Job, Event]]:
        job = jobs[0]
        if isinstance(job, SpeechRequest):
            yield job, AudioChunk(np.ones(24_000, np.float32) / 2, 24_000)
            yield job, Done(notes=self.notes)
        elif self.failure is not None:
            yield job, self.failure
        else:
            assert isinstance(job, TranscriptionRequest)
            assert len(job.samples) == 16_000
            yield job, Done(text=f" {self.transcripts[str(job.language)]}")

    def close(self, job: Job) -> None:
        pass


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Double:
    one = Double(NEURAL, ("en", "ja"), dict(selftest.TEXTS))
    monkeypatch.setattr(selftest, "make_backend", lambda name: one)
    return one


def results(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, object]]:
    status = selftest.main(["models"])
    return status, json.loads(capsys.readouterr().out)


def test_each_language_must_keep_its_bound(double: Double, capsys: pytest.CaptureFixture[str]) -> None:
    status, told = results(capsys)
    assert (status, told["error"]) == (0, None)
    assert [(row["language"], row["error_rate"], row["passed"]) for row in told["results"]] == [  # type: ignore[attr-defined]
        ("en", 0.0, True),
        ("ja", 0.0, True),
    ]
    double.transcripts["ja"] = "まったく違う。"
    status, told = results(capsys)
    assert status == 1
    assert [row["passed"] for row in told["results"]] == [True, False]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("voices", "languages"), [(NEURAL[:1], ("en", "ja")), (NEURAL, ("en",))])
def test_japanese_wants_a_voice_that_reads_it_and_a_model_that_knows_it(
    double: Double, voices: tuple[Voice, ...], languages: tuple[str, ...]
) -> None:
    double.voices, double.languages = voices, languages
    assert [one.language for one in selftest.self_test(Path("models"))] == ["en"]


def test_espeak_may_be_misheard_more_often(double: Double) -> None:
    double.voices = ()
    assert next(selftest.self_test(Path("models"))).bound == selftest.ESPEAK_BOUND
    double.voices, double.notes = NEURAL, ("espeak-ng spoke, because the neural voice did not load: broken",)
    assert next(selftest.self_test(Path("models"))).engine == "espeak-ng"


def test_what_keeps_it_from_running_is_told(
    double: Double, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    double.failure = Failed("error", "the graph broke")
    assert results(capsys) == (2, {"error": "the graph broke", "results": []})

    def missing(*_: object) -> None:
        raise ModelUnavailable("whisper-base is gone")

    monkeypatch.setattr(double, "load", missing)
    assert results(capsys) == (2, {"error": "whisper-base is gone", "results": []})
