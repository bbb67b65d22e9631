"""Where silence belongs between frames: a track that begins late, a hole, lost packets.

Owns what is believed of a file's clock. Knows no files.
"""

from __future__ import annotations

from collections.abc import Iterator

import av

from app.media.parts import Part
from app.media.source import Caps, Source
from app.media.track import Read

_GAP_SECONDS = 0.1  # by which a packet may be late: clocks are rounded, and sound and picture begin about together
_JUMP_SECONDS = (
    10.0  # of a broadcast's clock, where it was set anew; FFmpeg's own tool takes it so (dts_delta_threshold)
)
_CLOCKS = {"counted", "stamped", "broadcast"}

Timed = tuple[float, av.AudioFrame]  # seconds of silence before the frame


def with_silence(
    frames: Iterator[Read], start: float | None, part: Part, source: Source, caps: Caps
) -> Iterator[Timed]:
    """Frames with the silence that belongs before them.

    start: where the file begins by its clock, seconds, so that a track alone with an offset begins at once.
    """
    timeline = source.timeline
    timeline.origin = start if timeline.origin is None else timeline.origin
    owed = 0.0
    for frame, lost, pause in frames:
        silence = pause if pause and source.has_room(pause, frame.sample_rate, caps) else 0.0
        owed += lost
        if frame.time is not None and (
            part.container.time in _CLOCKS or (part.container.time == "first" and not timeline.position)
        ):
            silence += _by_clock(frame.time, frame.sample_rate, part, source, caps)
        elif part.container.time not in _CLOCKS and owed > _GAP_SECONDS:
            lost, owed = (owed if source.has_room(owed, frame.sample_rate, caps) else 0.0), 0.0
            source.damage.silent += lost
            silence += lost
        yield silence, frame
        timeline.position += silence + frame.samples / frame.sample_rate


def _by_clock(at: float, rate: int, part: Part, source: Source, caps: Caps) -> float:
    timeline = source.timeline
    timeline.origin = at if timeline.origin is None else timeline.origin
    silence = at - timeline.origin - timeline.position
    if silence <= _GAP_SECONDS:
        if silence < -_JUMP_SECONDS:
            timeline.origin = at - timeline.position
        return 0.0
    if not _is_meant(silence, rate, part, source, caps):
        timeline.origin = at - timeline.position
        return 0.0
    return silence


def _is_meant(silence: float, rate: int, part: Part, source: Source, caps: Caps) -> bool:
    """Whether so many seconds of silence belong there; what is lost is recorded as damage."""
    if part.container.time == "broadcast" and source.timeline.position and silence > _JUMP_SECONDS:
        return False
    if not source.has_room(silence, rate, caps):
        source.damage.remarks.append(
            f"The file's clock jumps by {silence:.0f} s, which would not fit; it was not followed."
        )
        return False
    if part.container.time == "counted":
        source.damage.silent += silence
    return True
