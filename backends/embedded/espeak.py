"""Speech from espeak-ng: small, instant, robotic, and free of any model download.

Owns the sentence-by-sentence stream, speed and what is heard of text that gives no sound. The library's state is global
to the process; one worker process serves one deployment from one thread, so nothing is locked here.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from backends.audio.sentences import sentences
from backends.audio.tempo import change_tempo
from backends.embedded.espeak_info import EspeakOptions
from backends.embedded.espeak_library import FASTEST_WPM, SLOWEST_WPM, EspeakLibrary
from backends.embedded.espeak_scripts import legible
from backends.embedded.espeak_voices import Choice, VoiceCatalog
from backends.interface import (
    AudioChunk,
    Capabilities,
    Done,
    Event,
    InvalidInput,
    Job,
    ModelFiles,
    ModelUnavailable,
    Placement,
    Request,
    Samples,
    SpeechRequest,
    Usage,
)

_SILENT_PEAK = 1e-4  # below this a chunk is inaudible: the library had nothing to say
_MAX_BATCH = 8  # a step costs about a millisecond per job, so this only bounds the length of a round
_PAUSE_SECONDS = 0.25  # silence for a text of nothing but marks, which holds no word
_LIBRARY_BYTES = 25_000_000  # library and data of espeak-ng 1.52 as loaded, resident size measured on Linux


@dataclass(slots=True, eq=False)
class EspeakJob:
    """What is left to say. notes: what was done to the text, and what was not used; audible: some chunk was; begun:
    time.perf_counter() at start."""

    request: SpeechRequest
    voice: Choice
    words_per_minute: float
    waiting: list[str]
    notes: tuple[str, ...] = ()
    audible: bool = False
    begun: float = field(default_factory=time.perf_counter)


class EspeakBackend:
    """Implements backends.interface.Backend for task "speech"."""

    def load(self, model: ModelFiles, placement: Placement) -> Capabilities:
        self._options = EspeakOptions(**model.options)
        _check_ranges(self._options)
        self._library = EspeakLibrary()
        self._voices = VoiceCatalog(self._library.voices(), self._library.variants(), self._options.voice)
        try:
            self._voices.choose(self._options.voice, "a")
        except InvalidInput as error:
            raise ModelUnavailable(f"option voice of deployment {model.deployment}: {error.message}") from error
        return Capabilities(
            engine="espeak-ng",
            device="cpu",
            dtype="int16",
            max_batch=_MAX_BATCH,
            sample_rate=self._library.rate,
            voices=self._voices.listed(),
            native_speed=True,
            detail={"version": self._library.version()},
        )

    def canary(self) -> Request:
        return SpeechRequest(text="Ready.", voice=self._options.voice)

    def start(self, request: Request) -> EspeakJob:
        if not isinstance(request, SpeechRequest):
            raise InvalidInput("espeak-ng makes speech only")
        if request.reference is not None:
            raise InvalidInput("espeak-ng cannot clone a voice", param="reference_audio")
        if not request.text.strip():
            raise InvalidInput("the input holds nothing to say", param="input")
        voice = self._voices.choose(request.voice or self._options.voice, request.text, request.language)
        self._speak_as(voice)
        text = legible(request.text, voice.language, self._library.spells, voice.label)
        waiting = sentences(text.text)
        notes = (*text.notes, *_unused(request))
        return EspeakJob(request, voice, self._options.words_per_minute * request.speed, waiting, notes)

    def step(self, jobs: Sequence[Job]) -> Iterable[tuple[Job, Event]]:
        """One sentence of each job."""
        for job in jobs:
            assert isinstance(job, EspeakJob)  # noqa: S101 (narrows the protocol's opaque Job)
            for event in self._advance(job):
                yield job, event

    def close(self, job: Job) -> None:
        """A job holds nothing but its own text."""

    def footprint(self) -> int:
        return _LIBRARY_BYTES

    def _advance(self, job: EspeakJob) -> Iterable[Event]:
        if job.waiting:
            samples = self._say(job, job.waiting[0])  # first: a step that raises is repeated
            job.waiting.pop(0)
            audible = samples.size > 0 and float(np.abs(samples).max()) > _SILENT_PEAK
            job.audible = job.audible or audible
            if audible:
                yield AudioChunk(samples, self._library.rate)
        if not job.waiting:
            yield from self._ending(job)

    def _ending(self, job: EspeakJob) -> Iterator[Event]:
        if job.audible:
            yield _done(job)
        elif any(char.isalnum() for char in job.request.text):
            yield _nothing_said(job)
        else:
            yield AudioChunk(np.zeros(round(self._library.rate * _PAUSE_SECONDS), np.float32), self._library.rate)
            yield _done(job, "the input holds only marks: nothing is said, only a short silence")

    def _speak_as(self, voice: Choice) -> None:
        if not self._library.set_voice(voice.identifier):
            raise RuntimeError(f"espeak-ng lists the voice {voice.identifier} and does not load it")

    def _say(self, job: EspeakJob, sentence: str) -> Samples:
        """One sentence and the gap behind it, at the job's rate."""
        self._speak_as(job.voice)
        native = min(max(job.words_per_minute, SLOWEST_WPM), FASTEST_WPM)
        samples = self._library.synthesize(sentence, round(native), self._options.pitch, self._options.pitch_range)
        samples = change_tempo(samples, self._library.rate, job.words_per_minute / native)
        more = len(job.waiting) > 1
        gap = int(self._library.rate * self._options.sentence_gap_ms / 1000 / job.request.speed) if more else 0
        return np.concatenate([samples, np.zeros(gap, np.float32)])


def _check_ranges(options: EspeakOptions) -> None:
    limits = {"words_per_minute": (20, 1000), "pitch": (0, 99), "pitch_range": (0, 99), "sentence_gap_ms": (0, 10_000)}
    for name, (low, high) in limits.items():
        if not low <= getattr(options, name) <= high:
            raise ModelUnavailable(f"option {name} of espeak must be {low} to {high}, not {getattr(options, name)}")


def _done(job: EspeakJob, *notes: str) -> Done:
    """espeak-ng has no tokens; the words of the input are counted instead."""
    return Done(
        usage=Usage(input_tokens=len(job.request.text.split())),
        timings={"synthesis": time.perf_counter() - job.begun},
        notes=(*job.notes, *notes),
    )


def _unused(request: SpeechRequest) -> Iterator[str]:
    """Notes for what espeak-ng ignores in a request. It is no error: espeak-ng stands in for models that use all of
    it."""
    if request.instructions.strip():
        yield "espeak-ng has no speaking styles: instructions were not used"
    if request.context:
        yield "espeak-ng does not listen: context was not used"
    if request.options:
        yield "espeak-ng has no options in a request: options were not used"


def _nothing_said(job: EspeakJob) -> Event:
    error = InvalidInput(
        f"espeak-ng finds nothing to say in this input with voice {job.request.voice!r}", param="input"
    )
    return error.to_event()
