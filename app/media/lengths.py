"""How long a file says its sound lasts. Knows what of that is worth believing, and no packets."""

from __future__ import annotations

import re

import av

from app.media.parts import Part
from app.media.sniff import MP3, MP4, frame_of_mpeg

_TAG = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")  # of a track of Matroska
_XING = (b"Xing", b"Info")
_HAS_FRAMES = 1


def stated_seconds(file: av.container.InputContainer, stream: av.AudioStream, part: Part) -> float:
    """0 where the file does not say, or where FFmpeg guesses."""
    own = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
    if part.container is MP3:
        return xing_seconds(part.data)
    if part.container is MP4 and stream.frames:
        return own
    if part.container.time != "stamped" or part.container is MP4:
        return 0.0
    # FFmpeg gives a track the length of the whole film where its own is not known.
    if ends := _TAG.fullmatch(stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = ends.groups()
        end = 3600.0 * int(hours) + 60.0 * int(minutes) + float(seconds)
    else:
        end = file.duration / av.time_base if len(file.streams) == 1 and file.duration else 0.0
    return end - max(0, file.start_time or 0) / av.time_base if end else 0.0


def xing_seconds(mp3: bytes) -> float:
    """By the count of frames in the first one, where an encoder of a whole file leaves it; else 0."""
    start = mp3.find(b"\xff")
    head = mp3[start : start + 256] if start >= 0 else b""
    at = next((place for name in _XING if (place := head.find(name)) > 0), 0)
    frame = frame_of_mpeg(head[:6])
    if not at or frame is None or not int.from_bytes(head[at + 4 : at + 8], "big") & _HAS_FRAMES:
        return 0.0
    return int.from_bytes(head[at + 8 : at + 12], "big") * frame.samples / frame.rate
