"""Any speaking backend gets text for the ear, pauses, and a silence instead of an error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from backends.fake.backend import FakeBackend
from backends.interface import (
    AudioChunk,
    Capabilities,
    ChatRequest,
    Done,
    Event,
    Failed,
    InvalidInput,
    ModelFiles,
    Placement,
    Request,
    SpeechRequest,
    TextDelta,
    Usage,
    Voice,
)
from backends.live import LiveAudio, LiveBackend, LiveCommit, LiveRequest, TurnDone
from backends.registry import backend_info, check_options, check_request
from backends.spoken_text.reader import NOTHING_SECONDS, Reader

RATE = 1000


@dataclass(eq=False)
class Job:
    request: Request
    notes: tuple[str, ...] = ()


class Polyglot:
    """A backend whose voices speak many languages under names that say nothing of them."""

    def __init__(self) -> None:
        self.started: list[SpeechRequest] = []

    def load(self, model: ModelFiles, placement: Placement) -> Capabilities:
        voices = (Voice("nova", ""), *(Voice(code, "", (code,)) for code in ("en-us", "de", "fr-fr", "es", "ja")))
        return Capabilities("test", "cpu", "float32", 4, 500, voices=voices)

    def start(self, request: SpeechRequest) -> Job:
        self.started.append(request)
        return Job(request)

    def step(self, jobs: Sequence[Job]) -> Iterable[tuple[Job, Event]]:
        return [(job, Done("")) for job in jobs]

    def close(self, job: Job) -> None:
        pass


class Speaker:
    """One sample of sound a letter; refuses "refused", raises once at "stumble"."""

    def __init__(self) -> None:
        self.started: list[Any] = []
        self.open = 0
        self.stumbles = 1

    def load(self, model: ModelFiles, placement: Placement) -> Capabilities:
        return Capabilities("test", "cpu", "float32", 4, 500, voices=(Voice("anna", "", ("de-DE",)),))

    def canary(self) -> Request:
        return SpeechRequest("Ready.", "anna")

    def start(self, request: Request) -> Job:
        if isinstance(request, SpeechRequest) and "refused" in request.text:
            raise InvalidInput("refused", param="input")
        self.started.append(request)
        self.open += 1
        return Job(request, notes=("own",))

    def step(self, jobs: Sequence[Job]) -> Iterable[tuple[Job, Event]]:
        for job in jobs:
            if isinstance(job.request, ChatRequest):
                yield job, TextDelta("hi")
                yield job, Done("hi")
                continue
            assert isinstance(job.request, SpeechRequest)
            if "stumble" in job.request.text and self.stumbles:
                self.stumbles -= 1
                raise RuntimeError("once")
            yield job, AudioChunk(np.ones(len(job.request.text), np.float32), RATE)
            yield job, Done(usage=Usage(2, 3), seed=job.request.seed or 7, timings={"a": 1.0}, notes=("own",))

    def close(self, job: Job) -> None:
        self.open -= 1

    def footprint(self) -> int:
        return 5


def loaded(**fields: Any) -> tuple[Reader, Speaker]:
    speaker = Speaker()
    reader = Reader(speaker)
    reader.load(ModelFiles("test", "", None, Path(), Path(), **fields), Placement())
    return reader, speaker


def run(reader: Reader, request: Request) -> list[Event]:
    job = reader.start(request)
    events: list[Event] = []
    while not any(isinstance(event, Done | Failed) for event in events):
        events += [event for _, event in reader.step([job])]
    reader.close(job)
    return events


def sound(events: list[Event]) -> list[tuple[int, float]]:
    return [
        (len(event.samples), float(event.samples.max(initial=0))) for event in events if isinstance(event, AudioChunk)
    ]


@pytest.mark.parametrize("on", [True, False])
def test_marks_alone_are_a_short_silence_with_a_note(on: bool) -> None:
    reader, speaker = loaded(normalize_text=on)
    events = run(reader, SpeechRequest("... ---", "anna"))
    assert sound(events) == [(round(NOTHING_SECONDS * 500), 0.0)]
    assert isinstance(events[-1], Done)
    assert "only marks" in events[-1].notes[0]
    assert speaker.started == []


def test_the_backend_gets_the_text_as_it_is_read() -> None:
    reader, speaker = loaded()
    done = run(reader, SpeechRequest("**Hi** 👍", "x"))[-1]
    assert speaker.started[0].text == "Hi"
    assert isinstance(done, Done)
    assert done.notes == ("not read out: emoji or pictures (1)", "own")
    assert speaker.open == 0


@pytest.mark.parametrize(
    "request_", [SpeechRequest("**Hi** 👍", "x"), SpeechRequest("...", "anna"), ChatRequest((), None)]
)
def test_notes_stand_before_the_first_step_already(request_: Request) -> None:
    reader, _ = loaded()
    done = run(reader, request_)[-1]
    assert isinstance(done, Done)
    assert tuple(reader.start(request_).notes) == (done.notes or ("own",))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("default", "asked", "text"),
    [(False, {}, "**Hi**"), (True, {"normalize_text": False}, "**Hi**"), (False, {"normalize_text": True}, "Hi")],
)
def test_reading_can_be_turned_off_and_on(default: bool, asked: dict[str, bool], text: str) -> None:
    reader, speaker = loaded(normalize_text=default)
    run(reader, SpeechRequest("**Hi**", "x", options={**asked, "other": 1}))
    assert (speaker.started[0].text, speaker.started[0].options) == (text, {"other": 1})


def test_a_switch_that_is_no_boolean_is_refused_before_anything_runs() -> None:
    reader, _ = loaded()
    request = SpeechRequest("Hi", "x", options={"normalize_text": "no"})
    with pytest.raises(InvalidInput, match="normalize_text"):
        reader.start(request)
    with pytest.raises(InvalidInput, match="normalize_text"):
        check_request(backend_info("voices"), {}, request)


def test_the_switch_is_no_backends_option() -> None:
    request = SpeechRequest("Hi", "x", options={"normalize_text": False})
    check_request(backend_info("llasa"), {}, request)


@pytest.mark.parametrize(
    ("voice", "options", "text"),
    [
        ("anna", {}, "a Punkt de"),
        ("fr-fr", {}, "a point de"),
        ("alloy", {}, "a dot de"),
        ("anna", {"language": "es"}, "a punto de"),
    ],
)
def test_the_language_is_the_requests_or_the_voices(voice: str, options: dict[str, str], text: str) -> None:
    reader, speaker = loaded()
    run(reader, SpeechRequest("https://a.de", voice, options=options))
    assert speaker.started[0].text == text


def test_pauses_are_silence_between_the_pieces() -> None:
    reader, speaker = loaded()
    events = run(reader, SpeechRequest("[pause 1s] one [pause 500ms] three [pause 2s]", "x"))
    assert sound(events) == [(1000, 0.0), (3, 1.0), (500, 0.0), (5, 1.0), (2000, 0.0)]
    assert [request.seed for request in speaker.started] == [None, 7]
    done = events[-1]
    assert isinstance(done, Done)
    assert (done.usage, done.timings, done.notes, done.seed) == (Usage(4, 6), {"a": 2.0}, ("own",), 7)
    assert speaker.open == 0


def test_a_step_that_raises_can_be_repeated() -> None:
    reader, _ = loaded()
    job = reader.start(SpeechRequest("one [pause 1s] stumble", "x"))
    events = [event for _, event in reader.step([job])]
    with pytest.raises(RuntimeError):
        list(reader.step([job]))
    events += [event for _, event in reader.step([job])]
    assert sound(events) == [(3, 1.0), (1000, 0.0), (7, 1.0)]


def test_a_later_piece_that_is_refused_fails_its_job_alone() -> None:
    reader, _ = loaded()
    bad = reader.start(SpeechRequest("one [pause 1s] refused", "x"))
    good = reader.start(SpeechRequest("one [pause 1s] two", "x"))
    list(reader.step([bad, good]))
    with pytest.raises(InvalidInput):
        list(reader.step([bad]))
    assert sound([event for _, event in reader.step([good])]) == [(3, 1.0)]


def test_other_tasks_pass_through() -> None:
    reader, speaker = loaded()
    assert run(reader, ChatRequest(())) == [TextDelta("hi"), Done("hi")]
    assert speaker.open == 0
    assert reader.footprint() == 5
    assert run(reader, reader.canary())


def test_live_jobs_of_a_backend_that_speaks_too_go_through() -> None:
    reader = Reader(FakeBackend())
    reader.load(
        ModelFiles("fake", "", None, Path(), Path(), check_options(backend_info("fake"), {"task": "transcription"})),
        Placement(),
    )
    live = cast(LiveBackend, reader)
    job = live.start(LiveRequest(turn_detection=None))
    assert not live.has_work(job)
    assert not live.is_full(job)
    live.feed(job, LiveAudio(np.full(2 * 16_000, 0.1, np.float32)))
    live.feed(job, LiveCommit())
    told: list[Any] = []
    while live.has_work(job):
        told += [event for owner, event in live.step([job]) if owner is job]
    assert [event.text for event in told if isinstance(event, TurnDone)] == ["one two three four"]


@pytest.mark.parametrize(
    ("text", "voice", "options", "languages"),
    [
        ("Das war sehr gut, vielen Dank. [pause 1s] OK.", "nova", {}, ["de", "de"]),  # the pieces of a text are one
        ("Vous êtes très gentille.", "", {}, ["fr"]),
        ("Please open the front door.", "nova", {}, ["en"]),
        ("OK", "nova", {}, [""]),
        ("Das war sehr gut, vielen Dank.", "es", {}, ["es"]),
        ("Das war sehr gut, vielen Dank.", "nova", {"language": "en"}, ["en"]),
        ("Das war sehr gut, vielen Dank.", "nova", {"normalize_text": False}, ["de"]),
    ],
)
def test_voices_of_many_languages_are_told_the_language_of_the_text(
    text: str, voice: str, options: dict[str, Any], languages: list[str]
) -> None:
    inner = Polyglot()
    reader = Reader(cast(Any, inner))
    reader.load(ModelFiles("test", "", None, Path(), Path()), Placement())
    job = reader.start(SpeechRequest(text, voice, options=options))
    for _ in range(4):
        list(reader.step([job]))
    assert [request.language for request in inner.started] == languages
