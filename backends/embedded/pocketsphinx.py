"""English speech recognition from pocketsphinx: a smoke path that works after installation, not a dictation engine.

Owns the jobs: utterance after utterance, each decoded from a fresh state. Where the numbers of a segment come from:
- words: the decoder's own time marks (10 ms) and posteriors;
- avg_logprob: mean natural logarithm of its words' posteriors (they tell right from wrong only weakly: 0.54 against
0.29);
- no_speech_prob: one minus the voice detector's mean speech probability over the utterance;
- compression_ratio: UTF-8 bytes over zlib bytes, as Whisper defines it;
- tokens: none, the engine has words and no tokens; temperature: always 0, nothing is sampled.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from backends.embedded.comfort_noise import with_noise_floor
from backends.embedded.pocketsphinx_info import PocketsphinxOptions
from backends.embedded.sphinx_decoder import Heard, SphinxDecoder
from backends.embedded.utterances import Rules, Utterance, UtteranceFinder
from backends.embedded.voice_activity import VoiceDetector
from backends.embedded.vowel import vowel
from backends.interface import (
    ASR_SAMPLE_RATE,
    Capabilities,
    Done,
    Event,
    InvalidInput,
    Job,
    ModelFiles,
    ModelUnavailable,
    Placement,
    Progress,
    Request,
    Segment,
    TextDelta,
    TranscriptionRequest,
    Usage,
)

_MAX_BATCH = 4  # jobs that take turns; one utterance of one of them is decoded per step
_MODEL_BYTES = (
    120_000_000  # acoustic model, dictionary, language model and voice detector, resident size measured on Linux
)
_LEAST_PROBABILITY = 1e-6  # a posterior of 0 has no logarithm
_SHORTEST_LIMIT, _LONGEST_LIMIT = 2.0, 60.0  # seconds, range of the option longest_utterance


@dataclass(slots=True, eq=False)
class _TranscriptionJob:
    """One recording in work. pending: found and not decoded yet; begun: time.perf_counter() at start."""

    request: TranscriptionRequest
    finder: UtteranceFinder
    pending: Utterance | None = None
    texts: list[str] = field(default_factory=list)
    noise_added: bool = False
    begun: float = field(default_factory=time.perf_counter)


class PocketsphinxBackend:
    """Implements backends.interface.Backend for task "transcription"."""

    def load(self, model: ModelFiles, placement: Placement) -> Capabilities:
        options = PocketsphinxOptions(**model.options)
        if not _SHORTEST_LIMIT <= options.longest_utterance <= _LONGEST_LIMIT:
            raise ModelUnavailable(f"option longest_utterance must be {_SHORTEST_LIMIT} to {_LONGEST_LIMIT} seconds")
        self._longest = options.longest_utterance
        self._detector = VoiceDetector()
        self._decoder = SphinxDecoder(options.sentences)
        self._turn = 0
        return Capabilities(
            engine="pocketsphinx",
            device="cpu",
            dtype="int16",
            max_batch=_MAX_BATCH,
            languages=("en",),
            words=True,
            translation=True,
            detail={
                "quality": "degraded: for trying things out, not for dictation",
                "closed_sentences": len(options.sentences),
            },
        )

    def canary(self) -> Request:
        """A second with a synthetic vowel: the detector takes it for speech, so the decoder runs."""
        return TranscriptionRequest(vowel())

    def start(self, request: Request) -> Job:
        if not isinstance(request, TranscriptionRequest):
            raise InvalidInput("pocketsphinx transcribes only")
        language = (request.language or "en").lower()
        if language.split("-")[0] not in {"en", "english"}:
            raise InvalidInput(
                f"pocketsphinx understands English only, not {request.language!r}",
                param="language",
                code="unsupported_value",
            )
        if request.diarize:
            raise InvalidInput(
                "pocketsphinx does not tell speakers apart", param="response_format", code="unsupported_value"
            )
        return _TranscriptionJob(request, UtteranceFinder(self._detector, request.samples, self._rules(request)))

    def step(self, jobs: Sequence[Job]) -> Iterable[tuple[Job, Event]]:
        """At most one utterance of one job, in turns: a step stays short and no long recording holds up the others."""
        job = jobs[self._turn % len(jobs)]
        self._turn += 1
        assert isinstance(job, _TranscriptionJob)  # noqa: S101 (narrows the protocol's opaque Job)
        for event in self._advance(job):
            yield job, event

    def close(self, job: Job) -> None:
        """A job holds nothing but its place in the recording."""

    def footprint(self) -> int:
        return _MODEL_BYTES

    def _rules(self, request: TranscriptionRequest) -> Rules:
        rules = Rules(longest=self._longest)
        if request.chunking is None:
            return rules
        asked = request.chunking
        return replace(
            rules,
            threshold=min(max(asked.threshold, 0.2), 0.95),
            pause=asked.silence_duration_ms / 1000,
            padding=min(asked.prefix_padding_ms / 1000, self._longest / 4),
        )

    def _advance(self, job: _TranscriptionJob) -> Iterable[Event]:
        job.pending = job.pending or job.finder.next()  # kept until it is decoded: a step that raises is repeated
        if job.pending is not None:
            yield from self._decode(job, job.pending)
        if job.finder.finished:
            yield _done(job)
        else:
            yield Progress(job.finder.position // ASR_SAMPLE_RATE, len(job.request.samples) // ASR_SAMPLE_RATE)

    def _decode(self, job: _TranscriptionJob, utterance: Utterance) -> Iterable[Event]:
        samples = np.asarray(job.request.samples[utterance.begin : utterance.end], np.float32)
        samples, added = with_noise_floor(samples)
        heard = self._decoder.decode(samples)
        job.pending = None
        job.noise_added = job.noise_added or added
        if heard.text:
            yield TextDelta(f" {heard.text}" if job.texts else heard.text)
            yield _segment(len(job.texts), utterance, heard)
            job.texts.append(heard.text)


def _segment(index: int, utterance: Utterance, heard: Heard) -> Segment:
    offset, text = utterance.begin / ASR_SAMPLE_RATE, f" {heard.text}"
    length = utterance.end / ASR_SAMPLE_RATE
    words = tuple(
        replace(word, start=round(word.start + offset, 3), end=round(min(word.end + offset, length), 3))
        for word in heard.words
    )
    data = text.encode()
    return Segment(
        id=index,
        start=words[0].start,
        end=words[-1].end,
        text=text,
        seek=utterance.begin * 100 // ASR_SAMPLE_RATE,
        avg_logprob=sum(math.log(max(word.probability, _LEAST_PROBABILITY)) for word in words) / len(words),
        compression_ratio=len(data) / len(zlib.compress(data)),
        no_speech_prob=1.0 - utterance.speech_probability,
        words=words,
    )


def _done(job: _TranscriptionJob) -> Done:
    notes = ["pocketsphinx is a smoke path: expect one word of four to be wrong; a Whisper deployment transcribes well"]
    if job.noise_added:
        notes.append("noise 28 dB below the speech was added, because the audio is digitally silent between words")
    if job.request.prompt.strip():
        notes.append("pocketsphinx has no use for a prompt")
    return Done(
        text=" ".join(job.texts),
        language="en",
        usage=Usage(audio_seconds=len(job.request.samples) / ASR_SAMPLE_RATE),
        timings={"recognition": time.perf_counter() - job.begun},
        notes=tuple(notes),
    )
