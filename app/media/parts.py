"""The files that are joined in one upload, each to be decoded by itself: wav, FLAC and the links of an Ogg, which
damage parts further.

MP3, AAC and AMR need no parting: their frames follow each other whatever file they came from. Knows no decoder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from app.media.asf import losses
from app.media.downmix import Speakers
from app.media.ogg import ogg_parts
from app.media.sniff import ADTS, ASF, AVI, FLAC, MP3, OGG, WAV, Container, tag_length
from app.media.wav import WavPart, wav_parts

# RFC 9639, 8.1. A pattern goes through a long file once, in less than half the time of a find for either head.
_STREAMINFO_HEAD = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")


@dataclass(frozen=True, slots=True)
class Part:
    """data: a file of `container`; share: how much of the sound that its header tells of is there; raw_aac: it is no
    file but AAC frames, and this is their configuration; later: the clock of the part before goes on; pages: that are
    damaged or missing before it; objects: of its sound that are missing or not whole; cut: its end is missing."""

    data: bytes
    container: Container
    share: float = 1.0
    speakers: Speakers = ()
    raw_aac: bytes | None = None
    later: bool = False
    pages: int = 0
    objects: int = 0
    cut: bool = False


def parts(data: bytes, container: Container) -> Iterator[Part]:
    """The files in `data`, at least one."""
    if container is WAV:
        yield from _wav(data)
    elif container is FLAC:
        yield from _cut(data, FLAC, [head.start() for head in _STREAMINFO_HEAD.finditer(data)])
    elif container is OGG:
        yield from _ogg(data)
    elif container is AVI:
        yield Part(data, AVI, cut=int.from_bytes(data[4:8], "little") + 8 > len(data) + 1)
    elif container is ASF:
        lost = losses(data)
        yield Part(data, ASF, objects=lost.objects, cut=lost.cut)
    else:
        yield Part(data, container)


def _ogg(data: bytes) -> Iterator[Part]:
    found = False
    for part in ogg_parts(data):
        found = True
        yield Part(part.data, OGG, later=part.later, pages=part.lost, cut=part.cut)
    if not found:
        yield Part(data, OGG)


def _wav(data: bytes) -> Iterator[Part]:
    found = wav_parts(data)
    for part in found:
        if part.is_aac:
            yield _aac(data, part)
        elif part.is_mpeg:  # libsndfile ends at the first damaged frame, and does not say so
            yield Part(data[part.start : part.end], MP3, part.share)
        else:
            yield Part(data if part.plain else part.rebuilt(data), WAV, part.share, part.speakers)
    if not found:
        yield Part(data, WAV)


def _aac(data: bytes, part: WavPart) -> Part:
    frames = data[part.start : part.end]
    if len(frames) > 1 and frames[0] == 0xFF and frames[1] & 0xF6 == 0xF0:
        return Part(frames, ADTS, part.share)
    return Part(frames, ADTS, part.share, raw_aac=part.extra)


def _cut(data: bytes, container: Container, starts: list[int]) -> Iterator[Part]:
    if len(starts) < 2:
        yield Part(data, container)
        return
    for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
        yield Part(data[start : _before_tag(data, start, end)], container)


def _before_tag(data: bytes, start: int, end: int) -> int:
    """Where the sound ends between two joined files: before the second one's tag, if it has one."""
    tag = data.rfind(b"ID3", start, end)
    return tag if tag >= 0 and tag + tag_length(memoryview(data)[tag:end]) == end else end
