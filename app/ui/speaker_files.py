"""A conversation as a file to save: text, subtitles, rttm or JSON, with the names that a visitor gave its speakers.

Owns what such a file says. The document and the names come from a browser, so both are checked. Knows neither Gradio
nor HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from app.writers.speakers import rttm
from app.writers.subtitles import srt, vtt
from backends.interface import Segment, SpeakerTurns, Turn

SPEAKER_FORMATS = ("txt", "srt", "vtt", "rttm", "json")
_Seconds = Annotated[float, Meta(ge=0)]


class SpokenSegment(msgspec.Struct, frozen=True):
    """A segment of diarized_json, as far as it is used here."""

    start: _Seconds
    end: _Seconds
    text: str
    speaker: str


class _Document(msgspec.Struct, frozen=True):
    segments: list[SpokenSegment]


_Names = dict[str, Annotated[str, Meta(max_length=64)]]


def spoken_turns(segments: Iterable[SpokenSegment]) -> list[SpokenSegment]:
    """Segments of one speaker after another joined to turns."""
    groups = (list(group) for _, group in groupby(segments, lambda one: one.speaker))
    return [
        SpokenSegment(group[0].start, group[-1].end, " ".join(one.text.strip() for one in group), group[0].speaker)
        for group in groups
    ]


def turns_in(document: Any) -> list[SpokenSegment]:
    """The turns of a diarized_json document. Raises ValueError."""
    return spoken_turns(msgspec.convert(document, _Document).segments)


def speaker_file(document: Any, names: Any, form: str) -> str:
    """The text of the file. document: diarized_json; names: of speakers that are called something else there.

    Raises ValueError for what is none of these.
    """
    known = {old: " ".join(new.split()) for old, new in msgspec.convert(names or {}, _Names).items()}
    segments = [
        msgspec.structs.replace(one, speaker=known.get(one.speaker) or one.speaker)
        for one in msgspec.convert(document, _Document).segments
    ]
    if form == "json":
        return _renamed(document, segments)
    if form == "txt":
        return "".join(f"{turn.speaker}: {turn.text}\n" for turn in spoken_turns(segments))
    if form == "rttm":
        return _rttm(segments)
    cues = [Segment(n, one.start, one.end, one.text, speaker=one.speaker) for n, one in enumerate(segments)]
    if form == "srt":
        return srt(cues)
    if form == "vtt":
        return vtt(cues)
    raise ValueError(f"no such format: {form}")


def _renamed(document: Mapping[str, Any], segments: Sequence[SpokenSegment]) -> str:
    named = [{**one, "speaker": segment.speaker} for one, segment in zip(document["segments"], segments, strict=True)]
    return json.dumps({**document, "segments": named}, ensure_ascii=False, indent=2) + "\n"


def _rttm(segments: Sequence[SpokenSegment]) -> str:
    turns = spoken_turns(segments)
    names = list(dict.fromkeys(turn.speaker for turn in turns))
    numbered = tuple(Turn(turn.start, max(turn.start, turn.end), names.index(turn.speaker)) for turn in turns)
    return rttm(SpeakerTurns(numbered, (), tuple(range(len(names)))), names)
