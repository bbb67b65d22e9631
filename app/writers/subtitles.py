"""Segments to SRT and WebVTT text. Knows times and text only.

Both formats end lines with LF. WebVTT times always have hours, as the real service writes them.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator

from backends.interface import Segment

_ARROW = re.compile("-{2,}>")  # with all its dashes: less one, a longer arrow would still hold the short one
_TAG_SIGNS = str.maketrans("", "", "<>&")
_MS_PER_HOUR, _MS_PER_MINUTE, _MS_PER_SECOND = 3_600_000, 60_000, 1000


def srt(segments: Iterable[Segment]) -> str:
    """Numbered cues; an empty transcript is an empty file."""
    return "".join(
        f"{number}\n{timestamp(start, ',')} --> {timestamp(end, ',')}\n{_prefixed(speaker, '{}: ')}{text}\n\n"
        for number, (start, end, text, speaker) in enumerate(_cues(segments), 1)
    )


def vtt(segments: Iterable[Segment]) -> str:
    """The header and unnumbered cues, whose text has no tags: & and < begin markup there."""
    cues = (
        f"{timestamp(start, '.')} --> {timestamp(end, '.')}\n"
        f"{_prefixed(speaker, '<v {}>')}{html.escape(text, quote=False)}\n\n"
        for start, end, text, speaker in _cues(segments)
    )
    return "WEBVTT\n\n" + "".join(cues)


def timestamp(seconds: float, mark: str) -> str:
    """HH:MM:SS and milliseconds after `mark`; rounding carries into the minutes. Negative times count as 0."""
    total = max(0, round(seconds * _MS_PER_SECOND))
    hours, rest = divmod(total, _MS_PER_HOUR)
    minutes, rest = divmod(rest, _MS_PER_MINUTE)
    whole, milliseconds = divmod(rest, _MS_PER_SECOND)
    return f"{hours:02d}:{minutes:02d}:{whole:02d}{mark}{milliseconds:03d}"


def _prefixed(speaker: str | None, shape: str) -> str:
    """What stands before a cue's text; signs that would end a tag or a cue are left out of the name."""
    return "" if speaker is None else shape.format(speaker.translate(_TAG_SIGNS))


def _cues(segments: Iterable[Segment]) -> Iterator[tuple[float, float, str, str | None]]:
    """(start, end, text, speaker) of what has text. A blank line would end a cue early and an arrow would begin one."""
    for segment in segments:
        lines = (line.strip() for line in _ARROW.sub("->", segment.text).splitlines())
        if text := "\n".join(line for line in lines if line):
            yield segment.start, max(segment.start, segment.end), text, segment.speaker
