"""A speech backend whose text is read as a person would read it, whatever the voice.

Wraps any backend that speaks: its own backend gets text for the ear, piece by piece where the text asks for pauses; a
text with nothing to say becomes a short silence instead of an error. Owns the pauses, the notes and when all of this is
off. Knows the contract and no voice.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np

from backends.interface import (
    AudioChunk,
    Backend,
    Capabilities,
    Done,
    Event,
    Job,
    ModelFiles,
    Placement,
    Request,
    SpeechRequest,
    Usage,
)
from backends.live import Feed, LiveBackend
from backends.spoken_text.languages import LatinLanguages
from backends.spoken_text.option import wants_reading, without_reading_option
from backends.spoken_text.reading import Piece, plain, read

NOTHING_SECONDS = 0.25  # of silence for a text that holds nothing to say
_NOTHING = "the input holds only marks: nothing is said, only a short silence"
_RATE = 24_000  # Hz, where a backend tells none
_LONGEST_CODE = 3  # letters of a language's primary code
_FEW_LANGUAGES = 3  # with more the voices are asked for by names that say nothing of the language


@dataclass(eq=False)
class _PassedJob:
    """A job of another task."""

    inner: Job | None

    @property
    def notes(self) -> tuple[str, ...]:
        return _notes(self.inner)


@dataclass(eq=False)
class _SpokenJob:
    """request: as the backend gets it, with another text each time; left: pieces not begun; ended: of pieces.

    rate: of its sound, Hz, 0 until there is some; before, behind: seconds of silence around the piece being spoken.
    """

    request: SpeechRequest
    left: deque[Piece]
    notes: list[str]
    inner: Job | None = None
    rate: int = 0
    before: float = 0.0
    behind: float = 0.0
    ended: list[Done] = field(default_factory=list)


_Job = _PassedJob | _SpokenJob


def _inner(job: Job) -> Job:
    return job.inner if isinstance(job, _PassedJob) else job


class Reader:
    """Implements backends.interface.Backend around another."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def load(self, model: ModelFiles, placement: Placement) -> Capabilities:
        capabilities = self._backend.load(model, placement)
        self._on, self._rate = model.normalize_text, capabilities.sample_rate or _RATE
        self._languages = {voice.id: voice.languages[0] for voice in capabilities.voices if len(voice.languages) == 1}
        spoken = {_primary(code) for voice in capabilities.voices for code in voice.languages}
        self._latin = LatinLanguages(spoken) if len(spoken) > _FEW_LANGUAGES else None
        return capabilities

    def canary(self) -> Request:
        return self._backend.canary()

    def start(self, request: Request) -> Job:
        """Raises what the backend raises about the first piece, InvalidInput for an option that is no boolean."""
        if not isinstance(request, SpeechRequest):
            return _PassedJob(self._backend.start(request))
        request = replace(request, language=self._language(request))
        reading = (
            read(request.text, request.language or "en") if wants_reading(request, self._on) else plain(request.text)
        )
        job = _SpokenJob(without_reading_option(request), deque(reading.pieces), list(reading.notes))
        if job.left and not job.left[0].text:
            job.before = job.left.popleft().pause
        if job.left:
            self._begin(job)
            job.notes += [note for note in _notes(job.inner) if note not in job.notes]
        else:
            job.notes.insert(0, _NOTHING)
        return job

    def step(self, jobs: Sequence[Job]) -> Iterable[tuple[Job, Event]]:
        """A step of the backend. A job changes only with its own events, so that a step that raises can be repeated."""
        ours = [job for job in jobs if isinstance(job, _Job)]
        for job in ours:
            if isinstance(job, _SpokenJob) and job.inner is None and job.left:
                self._begin(job)
        by_inner = {id(job.inner): job for job in ours if job.inner is not None}
        silent = [job for job in ours if isinstance(job, _SpokenJob) and job.inner is None]
        if by_inner:
            for inner, event in self._backend.step([job.inner for job in ours if job.inner is not None]):
                owner = by_inner[id(inner)]
                for own in self._passed_on(owner, event) if isinstance(owner, _SpokenJob) else (event,):
                    yield owner, own
        for job in silent:
            yield job, _silence(job.before or NOTHING_SECONDS, self._rate)
            yield job, _joined(job)

    def close(self, job: Job) -> None:
        if isinstance(job, _Job) and job.inner is not None:
            self._backend.close(job.inner)

    def footprint(self) -> int:
        return self._backend.footprint()

    # --- live jobs, of a backend that has them besides speaking -------------------------------------------------------

    def feed(self, job: Job, feed: Feed) -> None:
        self._live().feed(_inner(job), feed)

    def has_work(self, job: Job) -> bool:
        return self._live().has_work(_inner(job))

    def is_full(self, job: Job) -> bool:
        return self._live().is_full(_inner(job))

    def _live(self) -> LiveBackend:
        return cast("LiveBackend", self._backend)  # only a backend that has live jobs is asked for one

    # --- pieces -------------------------------------------------------------------------------------------------------

    def _begin(self, job: _SpokenJob) -> None:
        """Start the backend on the next piece, with the seed that the piece before had."""
        piece = job.left[0]
        seed = job.ended[0].seed if job.ended else job.request.seed
        job.inner = self._backend.start(replace(job.request, text=piece.text, seed=seed))
        job.behind = piece.pause
        job.left.popleft()

    def _passed_on(self, job: _SpokenJob, event: Event) -> Iterator[Event]:
        """What becomes of an event of the piece being spoken."""
        if isinstance(event, AudioChunk):
            job.rate = event.rate
            if job.before:
                yield _silence(job.before, job.rate)
                job.before = 0.0
        if not isinstance(event, Done):
            yield event
            return
        job.ended.append(event)
        if job.behind:
            yield _silence(job.behind, job.rate or self._rate)
        if not job.left:
            yield _joined(job)
            return
        inner, job.inner = job.inner, None
        self._backend.close(inner)

    # --- text ---------------------------------------------------------------------------------------------------------

    def _language(self, request: SpeechRequest) -> str:
        """The primary code of the text's language: as asked for, by its kana, the voice's, or by its words; "" if none
        of them tells."""
        asked = request.options.get("language", "")
        if not asked or not isinstance(asked, str):
            asked = "ja" if _has_kana(request.text) else self._languages.get(request.voice, request.voice)
        code = _primary(asked)
        if len(code) <= _LONGEST_CODE and code.isalpha():
            return code
        return self._latin.of(request.text) if self._latin is not None else ""


def _notes(job: Job | None) -> tuple[str, ...]:
    """Those that stand by now."""
    return tuple(getattr(job, "notes", ()))


def _primary(code: str) -> str:
    return code.replace("_", "-").partition("-")[0].lower()


def _silence(seconds: float, rate: int) -> AudioChunk:
    return AudioChunk(np.zeros(round(seconds * rate), np.float32), rate)


def _has_kana(text: str) -> bool:
    """Whether kana are more than a few among the letters."""
    letters = [char for char in text if char.isalpha()]
    kana = sum("\u3041" <= char <= "\u30ff" or "\uff66" <= char <= "\uff9f" for char in letters)
    return kana * 5 > len(letters)


def _joined(job: _SpokenJob) -> Done:
    """The Done of all pieces, with the notes about the text in front."""
    usage = [done.usage for done in job.ended]
    sums = {name.name: sum(getattr(one, name.name) for one in usage) for name in dataclasses.fields(Usage)}
    timings: dict[str, float] = {}
    for done in job.ended:
        for name, seconds in done.timings.items():
            timings[name] = timings.get(name, 0.0) + seconds
    return Done(
        language=job.ended[0].language if job.ended else None,
        finish_reason="length" if any(done.finish_reason == "length" for done in job.ended) else "stop",
        usage=Usage(**sums),
        seed=job.ended[0].seed if job.ended else job.request.seed,
        timings=timings,
        notes=tuple(dict.fromkeys([*job.notes, *(note for done in job.ended for note in done.notes)])),
    )
