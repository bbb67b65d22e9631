"""A job's events to a transcript, and a transcript to each of the API's bodies and event streams.

Owns text, JSON, verbose and diarised shapes, usage, and the rule that streamed deltas joined are the final text. Knows
no HTTP; subtitles are next door.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from app.writers.sse import DONE, event
from app.writers.subtitles import srt, vtt
from backends.interface import Done, Event, Segment, TextDelta, TokenLogprob, Usage, Word
from backends.languages import language_name

Format = Literal["json", "text", "srt", "vtt", "verbose_json", "diarized_json", "rttm"]
FORMATS: tuple[Format, ...] = ("json", "text", "srt", "vtt", "verbose_json", "diarized_json", "rttm")
STREAMED_FORMATS: tuple[Format, ...] = ("json", "text", "diarized_json")  # text in the same events as json
TEXT_TYPE = "text/plain; charset=utf-8"  # what the real service sends for text, srt and vtt alike
_FIRST_SPEAKER = "A"


@dataclass(slots=True)
class Transcript:
    """What was heard. duration: seconds of the audio; language: ISO 639-1 or None; segments: within 0..duration, in
    order."""

    duration: float
    task: Literal["transcribe", "translate"] = "transcribe"
    text: str = ""
    language: str | None = None
    segments: list[Segment] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    done: Done = field(default_factory=Done)


class Collector:
    """Takes a job's events and gives the text each adds; `transcript` is complete after the Done event."""

    def __init__(self, duration: float, task: Literal["transcribe", "translate"]) -> None:
        self.transcript = Transcript(duration, task)
        self._source: type[Event] | None = None  # the first kind of event with text is the one whose text counts
        self._given = ""
        self._held = ""  # white space at the end, which is given only if more text follows

    def take(self, event: Event) -> str:
        """The text to append now, "" if none."""
        transcript = self.transcript
        if isinstance(event, Segment):
            transcript.segments.append(self._placed(event))
            return self._add(event, event.text, event.logprobs)
        if isinstance(event, TextDelta):
            return self._add(event, event.text, event.logprobs)
        if isinstance(event, Done):
            return self._finish(event)
        return ""

    def _add(self, event: Event, text: str, logprobs: Iterable[TokenLogprob]) -> str:
        if self._source is None:
            self._source = type(event)
        if not isinstance(event, self._source):
            return ""
        self.transcript.logprobs += logprobs
        return self._give(text)

    def _give(self, text: str) -> str:
        text = self._held + text
        if not self._given:
            text = text.lstrip()
        stripped = text.rstrip()
        self._held = text[len(stripped) :]
        self._given += stripped
        return stripped

    def _finish(self, done: Done) -> str:
        """What was given cannot be taken back; a Done text that goes on from it is completed."""
        transcript = self.transcript
        complete = done.text.strip()
        rest = self._give(done.text.lstrip()[len(self._given) :]) if complete.startswith(self._given) else ""
        transcript.text = self._given
        transcript.language, transcript.usage, transcript.done = done.language, done.usage, done
        if not transcript.segments and transcript.text:
            transcript.segments.append(Segment(0, 0.0, transcript.duration, transcript.text))
        return rest

    def _placed(self, segment: Segment) -> Segment:
        """The segment with its times inside the audio and not before those that came earlier."""
        segments, duration = self.transcript.segments, self.transcript.duration
        floor = segments[-1].start if segments else 0.0
        start, end = placed(segment.start, segment.end, floor, duration)
        return replace(segment, start=start, end=end, words=tuple(_placed_words(segment.words, start, duration)))


def placed(start: float, end: float, floor: float, ceiling: float) -> tuple[float, float]:
    """Times in seconds, rounded to ms, with floor <= start <= end <= ceiling."""
    begun = min(max(start, floor), ceiling)
    return _ms(begun, ceiling), _ms(min(max(end, begun), ceiling), ceiling)


def _ms(seconds: float, ceiling: float) -> float:
    return min(round(seconds, 3), ceiling)


def _placed_words(words: Iterable[Word], floor: float, ceiling: float) -> Iterator[Word]:
    for word in words:
        start, end = placed(word.start, word.end, floor, ceiling)
        floor = start
        yield replace(word, word=word.word.strip(), start=start, end=end)


async def collect(events: AsyncIterable[Event], collector: Collector) -> Transcript:
    """The whole transcript."""
    async for one in events:
        collector.take(one)
    return collector.transcript


def render(
    transcript: Transcript, kind: Format, *, words: bool, segments: bool, logprobs: bool
) -> str | dict[str, Any]:
    """The body in one of FORMATS: text, or a JSON document. words, segments: which lists verbose_json shows."""
    if kind == "text":
        return transcript.text + "\n"
    if kind == "srt":
        return srt(transcript.segments)
    if kind == "vtt":
        return vtt(transcript.segments)
    if kind == "verbose_json":
        return _verbose(transcript, words, segments)
    if kind == "diarized_json":
        return _diarized(transcript)
    document: dict[str, Any] = {"text": transcript.text, "usage": duration_usage(transcript)}
    if logprobs:
        document["logprobs"] = _logprobs(transcript.logprobs)
    return document


Speakers = Callable[[list[Segment]], Awaitable[list[Segment]]]
"""Names the speakers of a whole transcript's segments, once they are known."""


async def stream(
    events: AsyncIterable[Event], collector: Collector, kind: Format, logprobs: bool, speakers: Speakers | None = None
) -> AsyncIterator[bytes]:
    """The API's event stream: deltas as they come, finished segments if diarised, the whole text, [DONE].

    speakers: given where another model tells them, for which the segments wait; None where the segments have them.
    """
    async for one in events:
        delta = collector.take(one)
        if delta:
            said = {"logprobs": _logprobs(one.logprobs)} if logprobs and isinstance(one, TextDelta | Segment) else {}
            yield event({"type": "transcript.text.delta", "delta": delta, **said})
        if kind == "diarized_json" and speakers is None and isinstance(one, Segment):
            number = len(collector.transcript.segments) - 1
            yield event(_diarized_segment(number, collector.transcript.segments[-1]))
    if speakers is not None:
        for number, segment in enumerate(await speakers(collector.transcript.segments)):
            yield event(_diarized_segment(number, segment))
    yield event(_done_event(collector.transcript, logprobs))
    yield DONE


def duration_usage(transcript: Transcript) -> dict[str, Any]:
    """Whole seconds, rounded up, as the real service bills its Whisper family."""
    return {"type": "duration", "seconds": math.ceil(transcript.duration)}


def _done_event(transcript: Transcript, logprobs: bool) -> dict[str, Any]:
    document: dict[str, Any] = {"type": "transcript.text.done", "text": transcript.text}
    usage = transcript.usage
    if usage.input_tokens or usage.output_tokens:
        document["usage"] = {
            "type": "tokens",
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.input_tokens + usage.output_tokens,
            "input_token_details": {
                "text_tokens": usage.input_tokens - usage.input_audio_tokens,
                "audio_tokens": usage.input_audio_tokens,
            },
        }
    if logprobs:
        document["logprobs"] = _logprobs(transcript.logprobs)
    return document


def _verbose(transcript: Transcript, words: bool, segments: bool) -> dict[str, Any]:
    translated = transcript.task == "translate"
    document: dict[str, Any] = {
        "task": transcript.task,
        "language": "english" if translated else language_name(transcript.language),
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
    }
    if segments:
        document["segments"] = [_verbose_segment(number, segment) for number, segment in enumerate(transcript.segments)]
    if words:
        timed = (word for segment in transcript.segments for word in segment.words)
        document["words"] = [_timed_word(word) for word in timed]
    return document | {"usage": duration_usage(transcript)}


def _timed_word(word: Word) -> dict[str, Any]:
    speaker = {} if word.speaker is None else {"speaker": word.speaker}
    return {"word": word.word, "start": word.start, "end": word.end, **speaker}


def _verbose_segment(number: int, segment: Segment) -> dict[str, Any]:
    speaker = {} if segment.speaker is None else {"speaker": segment.speaker}
    return {
        "id": number,
        "seek": segment.seek,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text if segment.text.startswith(" ") else f" {segment.text}",
        "tokens": list(segment.tokens),
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
        **speaker,
    }


def _diarized(transcript: Transcript) -> dict[str, Any]:
    return {
        "task": transcript.task,
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
        "segments": [_diarized_segment(number, segment) for number, segment in enumerate(transcript.segments)],
        "usage": duration_usage(transcript),
    }


def _diarized_segment(number: int, segment: Segment) -> dict[str, Any]:
    return {
        "type": "transcript.text.segment",
        "id": f"seg_{number + 1:03d}",
        "start": segment.start,
        "end": segment.end,
        "text": segment.text.strip(),
        "speaker": segment.speaker or _FIRST_SPEAKER,
    }


def _logprobs(tokens: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    return [{"token": one.token, "bytes": list(one.bytes), "logprob": one.logprob} for one in tokens]
