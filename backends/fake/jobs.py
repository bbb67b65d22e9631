"""What the test double answers: planned as a whole when a job starts, given out piece by piece.

Everything follows from the request alone, so tests can compute the answer: a transcript has one word per half second of
audio, a sentence becomes one tone per character, a chat answer repeats what was said and how long the audio was. Knows
nothing of faults.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import ceil

import numpy as np

from backends.fake.info import FakeOptions
from backends.interface import (
    ASR_SAMPLE_RATE,
    AudioChunk,
    ChatRequest,
    DiarizationRequest,
    Done,
    Event,
    InvalidInput,
    Progress,
    Request,
    Samples,
    Segment,
    SpeakerTurns,
    SpeechRequest,
    TextDelta,
    TextPart,
    TranscriptionRequest,
    Turn,
    Usage,
    Voice,
    Word,
)

SPEECH_RATE = 24_000  # Hz
CHARACTER_SECONDS = 0.06  # length of the tone that stands for one character
CHARACTERS_PER_PIECE = 16  # about a second of audio per step
WORD_SECONDS = 0.5
SEGMENT_WORDS = 20  # ten seconds
TURN_SECONDS = 2.0  # of a speaker
TOKENS_PER_SECOND = 10  # of audio that is heard, for usage counts
DEFAULT_MAX_TOKENS = 256
VOCABULARY = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
VOICES = (Voice("fake-low", "Low tone"), Voice("fake-high", "High tone"))
CANARY = {"canary": True}  # options of a request that takes one step, whatever the deployment says
_LOWEST_HZ = {"fake-low": 200.0, "fake-high": 400.0}


@dataclass(slots=True, eq=False)
class FakeJob:
    """A planned answer. steps: how many were done; total: how many are planned."""

    pieces: list[list[Event]]
    done: Done
    total: int
    steps: int = 0
    over: bool = False
    given: int = field(default=0, repr=False)

    def advance(self) -> Iterator[Event]:
        """The events of the next step; pieces are spread evenly over the planned steps."""
        self.steps += 1
        due = len(self.pieces) * self.steps // self.total
        for piece in self.pieces[self.given : due]:
            yield from piece
        self.given = due
        yield Progress(self.steps, self.total)
        if self.steps >= self.total:
            self.over = True
            yield self.done


def begin(request: Request, options: FakeOptions) -> FakeJob:
    """Plan the answer. Raises InvalidInput."""
    if isinstance(request, TranscriptionRequest):
        pieces, done = _transcript(request, options)
    elif isinstance(request, SpeechRequest):
        pieces, done = _speech(request, options)
    elif isinstance(request, DiarizationRequest):
        pieces, done = _speaker_turns(request)
    else:
        pieces, done = _answer(request)
    steps = 1 if request.options == CANARY else options.steps or max(1, len(pieces))
    return FakeJob(pieces, done, steps)


def transcript_words(seconds: float) -> tuple[str, ...]:
    """The words that audio of this length is heard as; text: joined with spaces."""
    return tuple(VOCABULARY[i % len(VOCABULARY)] for i in range(int(seconds / WORD_SECONDS)))


def speech_samples(text: str, voice: str = VOICES[0].id, speed: float = 1.0) -> Samples:
    """float32 [time] at SPEECH_RATE: one faded tone per character, higher for later characters of the alphabet."""
    count = round(CHARACTER_SECONDS * SPEECH_RATE / speed)
    clock = np.arange(count, dtype=np.float32) / SPEECH_RATE
    fade = np.sin(np.pi * np.arange(count, dtype=np.float32) / count)
    tones = [0.3 * fade * np.sin(2 * np.pi * (_LOWEST_HZ[voice] + 5 * (ord(c) % 64)) * clock) for c in text]
    return np.concatenate(tones).astype(np.float32) if tones else np.zeros(0, np.float32)


def _transcript(request: TranscriptionRequest, options: FakeOptions) -> tuple[list[list[Event]], Done]:
    if request.diarize and not options.diarization:
        raise InvalidInput(
            "this deployment does not tell speakers apart", param="response_format", code="unsupported_value"
        )
    seconds = len(request.samples) / ASR_SAMPLE_RATE
    words = transcript_words(seconds)
    pieces: list[list[Event]] = []
    for number, first in enumerate(range(0, len(words), SEGMENT_WORDS)):
        segment = _segment(number, first, words[first : first + SEGMENT_WORDS], request)
        text = segment.text if number else segment.text.lstrip()
        pieces.append([TextDelta(text), segment])
    usage = Usage(
        input_tokens=int(seconds * TOKENS_PER_SECOND),
        output_tokens=len(words),
        input_audio_tokens=int(seconds * TOKENS_PER_SECOND),
        audio_seconds=seconds,
    )
    language = "en" if request.task == "translate" else request.language or "".join(request.languages[:1]) or "en"
    return pieces, Done(" ".join(words), language, usage=usage)


def timed_words(words: Sequence[str], start: float = 0.0) -> tuple[Word, ...]:
    """The words one after the other from `start` on, seconds."""
    return tuple(Word(word, start + i * WORD_SECONDS, start + (i + 1) * WORD_SECONDS) for i, word in enumerate(words))


def _segment(number: int, first: int, words: tuple[str, ...], request: TranscriptionRequest) -> Segment:
    start = first * WORD_SECONDS
    return Segment(
        id=number,
        start=start,
        end=start + len(words) * WORD_SECONDS,
        text=" " + " ".join(words),
        seek=int(start * 100),
        words=timed_words(words, start) if request.words else (),
        temperature=request.temperature,
        speaker="AB"[number % 2] if request.diarize else None,
    )


def _speech(request: SpeechRequest, options: FakeOptions) -> tuple[list[list[Event]], Done]:
    if request.voice not in _LOWEST_HZ:
        raise InvalidInput(f"unknown voice {request.voice!r}", param="voice")
    speed = request.speed if options.native_speed else 1.0
    text = request.text
    parts = [text[i : i + CHARACTERS_PER_PIECE] for i in range(0, len(text), CHARACTERS_PER_PIECE)]
    pieces: list[list[Event]] = [
        [AudioChunk(speech_samples(part, request.voice, speed), SPEECH_RATE)] for part in parts
    ]
    usage = Usage(input_tokens=len(text.split()), output_tokens=len(text), output_audio_tokens=len(text))
    return pieces, Done(usage=usage, seed=request.seed if request.seed is not None else 0)


def _speaker_turns(request: DiarizationRequest) -> tuple[list[list[Event]], Done]:
    """Two speakers in turn, TURN_SECONDS each; a reference of a known speaker is the first, the next one the second."""
    seconds = len(request.samples) / ASR_SAMPLE_RATE
    count = max(1, ceil(seconds / TURN_SECONDS))
    most = min(2 if request.max_speakers is None else request.max_speakers, 2)
    edges = [min(seconds, number * TURN_SECONDS) for number in range(count + 1)]
    turns = tuple(Turn(edges[n], edges[n + 1], n % most) for n in range(count))
    speakers = len({turn.speaker for turn in turns})
    known = tuple(number if number < speakers else -1 for number in range(len(request.references)))
    return [[SpeakerTurns(turns, turns, known)]], Done(usage=Usage(audio_seconds=seconds))


def _answer(request: ChatRequest) -> tuple[list[list[Event]], Done]:
    """Repeats the last turn: "You said: ..." and "I heard 1.5 seconds of audio." """
    turn = request.messages[-1].parts if request.messages else ()
    said = " ".join(part.text for part in turn if isinstance(part, TextPart))
    lengths = [len(part.samples) / ASR_SAMPLE_RATE for part in turn if not isinstance(part, TextPart)]
    sentences = [f"I heard {seconds:.1f} seconds of audio." for seconds in lengths]
    sentences += [f"You said: {said}"] if said else []
    tokens = list(_tokens(" ".join(sentences)))
    kept = tokens[: DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens]
    text, stopped = _cut_at_stop("".join(kept), request.stop)
    audio_tokens = int(sum(lengths) * TOKENS_PER_SECOND)
    usage = Usage(
        input_tokens=audio_tokens
        + sum(len(p.text.split()) for m in request.messages for p in m.parts if isinstance(p, TextPart)),
        output_tokens=len(list(_tokens(text))),
        input_audio_tokens=audio_tokens,
        audio_seconds=sum(lengths),
    )
    pieces: list[list[Event]] = [[TextDelta(token)] for token in _tokens(text)]
    return pieces, Done(
        text, "en", "length" if len(kept) < len(tokens) and not stopped else "stop", usage, request.seed
    )


def _tokens(text: str) -> Iterable[str]:
    """Words with the space before them; joined they are the text again."""
    runs = ["".join(run) for _, run in groupby(text, str.isspace)]
    lead = ""
    for run in runs:
        if run.isspace():
            lead = run
        else:
            yield lead + run
            lead = ""
    if lead:
        yield lead


def _cut_at_stop(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    places = [text.find(stop) for stop in stops if stop and stop in text]
    return (text[: min(places)], True) if places else (text, False)
