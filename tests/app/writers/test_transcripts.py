"""Subtitles, bodies and streams: properties that hold for whatever a model says."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.writers import sse
from app.writers.subtitles import srt, timestamp, vtt
from app.writers.transcripts import FORMATS, Collector, collect, placed, render, stream
from backends.interface import Done, Event, Segment, TextDelta, TokenLogprob, Usage, Word

TIMES = st.floats(-10, 1e5)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)
SEGMENTS = st.lists(st.builds(lambda start, end, text: Segment(0, start, end, text), TIMES, TIMES, TEXTS), max_size=6)
SRT_CUE = re.compile(r"\d+\n\d{2,}:\d\d:\d\d,\d{3} --> \d{2,}:\d\d:\d\d,\d{3}\n[^\n].*?\n\n", re.DOTALL)


@given(st.floats(0, 360_000))
def test_a_timestamp_is_the_time_to_the_millisecond(seconds: float) -> None:
    hours, minutes, rest = timestamp(seconds, ".").split(":")
    assert int(minutes) < 60
    assert float(rest) < 60
    assert abs(int(hours) * 3600 + int(minutes) * 60 + float(rest) - seconds) < 0.000_501


def test_rounding_carries() -> None:
    assert timestamp(59.9996, ",") == "00:01:00,000"
    assert timestamp(3599.9996, ".") == "01:00:00.000"
    assert timestamp(-1, ",") == "00:00:00,000"
    assert timestamp(360_000, ",") == "100:00:00,000"


@given(SEGMENTS)
def test_srt_is_well_formed(segments: list[Segment]) -> None:
    text = srt(segments)
    assert "\n\n\n" not in text
    assert SRT_CUE.sub("", text) == ""
    numbers = [int(block.split("\n")[0]) for block in text.split("\n\n") if block]
    assert numbers == list(range(1, len(numbers) + 1))
    assert text.count("-->") == len(numbers)


@given(SEGMENTS)
def test_vtt_is_well_formed(segments: list[Segment]) -> None:
    text = vtt(segments)
    assert text.startswith("WEBVTT\n\n")
    cues = [block for block in text.removeprefix("WEBVTT\n\n").split("\n\n") if block]
    assert text.count("-->") == len(cues)
    assert all(re.match(r"\d{2,}:\d\d:\d\d\.\d{3} --> \d{2,}:\d\d:\d\d\.\d{3}\n.", cue) for cue in cues)


@pytest.mark.parametrize("text", ["a --> b", "--->", "----->> x", "-->-->", "- -> -->>"])
def test_no_text_holds_a_cues_arrow(text: str) -> None:
    segments = [Segment(0, 0.0, 1.0, text)]
    assert srt(segments).count("-->") == vtt(segments).count("-->") == 1


def test_vtt_escapes_what_would_be_markup_there() -> None:
    segments = [Segment(0, 0.0, 1.0, 'I <3 "R&B" -> <i>')]
    assert vtt(segments).endswith('\nI &lt;3 "R&amp;B" -&gt; &lt;i&gt;\n\n')
    assert srt(segments).endswith('\nI <3 "R&B" -> <i>\n\n')


def test_empty_transcripts() -> None:
    assert (srt([]), vtt([])) == ("", "WEBVTT\n\n")
    assert srt([Segment(0, 0, 1, " \n ")]) == ""


@given(TIMES, TIMES, st.floats(0, 50), st.floats(50, 100))
def test_placed_times_are_ordered_and_inside(start: float, end: float, floor: float, ceiling: float) -> None:
    begun, ended = placed(start, end, floor, ceiling)
    assert round(floor, 3) <= begun <= ended <= ceiling


def _collected(events: Iterable[Event], duration: float = 10.0) -> tuple[Collector, list[str]]:
    collector = Collector(duration, "transcribe")
    return collector, [collector.take(event) for event in events]


@given(SEGMENTS, st.booleans())
def test_segments_and_words_stay_inside_the_audio_and_in_order(segments: list[Segment], with_done: bool) -> None:
    words = tuple(Word(" w ", segment.start, segment.end) for segment in segments)
    events: list[Event] = [Segment(0, one.start, one.end, one.text, words=words) for one in segments]
    collector, _ = _collected([*events, Done("")] if with_done else events, 60.0)
    kept = collector.transcript.segments
    assert all(0 <= one.start <= one.end <= 60 for one in kept)
    assert [one.start for one in kept] == sorted(one.start for one in kept)
    for one in kept:
        assert all(one.start <= word.start <= word.end <= 60 and word.word == "w" for word in one.words)


@given(st.lists(TEXTS), st.booleans())
def test_deltas_join_to_the_stripped_text(pieces: list[str], repeated_as_segments: bool) -> None:
    events: list[Event] = []
    for piece in pieces:
        events.append(TextDelta(piece))
        if repeated_as_segments:
            events.append(Segment(0, 0, 1, piece))
    collector, given_texts = _collected([*events, Done("".join(pieces))])
    assert "".join(given_texts) == collector.transcript.text == "".join(pieces).strip()


@given(st.lists(TEXTS))
def test_segments_alone_are_text_enough(pieces: list[str]) -> None:
    collector, given_texts = _collected([*(Segment(0, 0, 1, piece) for piece in pieces), Done("".join(pieces))])
    assert "".join(given_texts) == collector.transcript.text == "".join(pieces).strip()


def test_a_final_text_that_says_more_is_completed() -> None:
    collector, given_texts = _collected([TextDelta(" Good"), Done(" Good morning.")])
    assert (given_texts, collector.transcript.text) == (["Good", " morning."], "Good morning.")


def test_a_text_without_segments_becomes_one() -> None:
    collector, _ = _collected([Done("All of it.", "en")], 4.0)
    assert [(one.start, one.end, one.text) for one in collector.transcript.segments] == [(0.0, 4.0, "All of it.")]


async def _events(events: Iterable[Event]) -> AsyncIterator[Event]:
    for event in events:
        yield event


@given(SEGMENTS)
def test_every_format_renders_whatever_was_said(segments: list[Segment]) -> None:
    collector, _ = _collected([*segments, Done("".join(one.text for one in segments))], 60.0)
    for kind in FORMATS:
        body = render(collector.transcript, kind, words=True, segments=True, logprobs=True)
        assert isinstance(body, str) == (kind in ("text", "srt", "vtt"))
        json.dumps(body)


async def test_log_probabilities_follow_their_text() -> None:
    token = TokenLogprob(" Hi", (32, 72, 105), -0.25)
    wanted = [{"token": " Hi", "bytes": [32, 72, 105], "logprob": -0.25}]
    said = [TextDelta(" Hi", (token,)), Done(" Hi", usage=Usage(5, 2, input_audio_tokens=4))]
    whole = await collect(_events(said), Collector(1.0, "transcribe"))
    assert _rendered(whole, "json", logprobs=True)["logprobs"] == wanted
    lines = [chunk async for chunk in stream(_events(said), Collector(1.0, "transcribe"), "json", True)]
    first, done = (json.loads(line.removeprefix(b"data: ")) for line in lines[:2])
    assert (first["logprobs"], done["logprobs"], lines[-1]) == (wanted, wanted, b"data: [DONE]\n\n")
    assert done["usage"] == {
        "type": "tokens",
        "input_tokens": 5,
        "output_tokens": 2,
        "total_tokens": 7,
        "input_token_details": {"text_tokens": 1, "audio_tokens": 4},
    }


def _rendered(transcript: Any, kind: Any, logprobs: bool = False) -> dict[str, Any]:
    body = render(transcript, kind, words=False, segments=True, logprobs=logprobs)
    assert isinstance(body, dict)
    return body


def test_verbose_segments_have_all_ten_fields_and_a_leading_space() -> None:
    collector, _ = _collected([Segment(7, 0, 1, "Hi", seek=3, tokens=(1,)), Done("Hi", "de")], 1.2)
    body = _rendered(collector.transcript, "verbose_json")
    assert (body["language"], body["duration"], body["usage"]) == ("german", 1.2, {"type": "duration", "seconds": 2})
    segment = body["segments"][0]
    assert (segment["id"], segment["text"], segment["seek"], len(segment)) == (0, " Hi", 3, 10)


async def test_keep_alive_comments_come_only_in_pauses() -> None:
    commented = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"one"
        await commented.wait()
        yield b"two"

    chunks = []
    async for chunk in sse.answer_body(slow(), "id", 0.03):
        chunks.append(chunk)
        if chunk == sse.PING:
            commented.set()
    assert chunks[0] == b"one"
    assert chunks[-1] == b"two"
    assert set(chunks[1:-1]) == {sse.PING}


async def test_a_defect_inside_a_stream_is_told_without_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"one"
        raise ZeroDivisionError("secret")

    chunks = [chunk async for chunk in sse.answer_body(broken(), "id")]
    assert json.loads(chunks[1].removeprefix(b"data: "))["error"]["code"] == "internal_server_error"
    assert b"secret" not in chunks[1]


async def test_leaving_a_kept_alive_stream_ends_its_source() -> None:
    ended = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            await asyncio.Event().wait()
            yield b""
        finally:
            ended.set()

    chunks = sse.answer_body(endless(), "id", 0.01)
    assert await anext(chunks) == sse.PING
    await chunks.aclose()  # type: ignore[attr-defined]
    assert ended.is_set()
