"""The files that are joined in one upload, each to be decoded by itself: wav, FLAC and the links of an Ogg.

MP3, AAC and AMR need no parting: their frames follow each other whatever file they came from. Knows no decoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from app.media.downmix import Speakers
from app.media.sniff import ADTS, FLAC, OGG, WAV, Container
from app.media.wav import WavPart, wav_parts

_STREAMINFO_HEADS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")  # RFC 9639, 8.1
_LINK_STARTS = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ", b"\x80theora", b"fishead\x00")
_PAGE_HEAD = 27  # bytes of an Ogg page before its table of segments (RFC 3533, 6)
_FIRST_PAGE = 2  # its flag


@dataclass(frozen=True, slots=True)
class Part:
    """data: a file of `container`; stated: seconds its header says it lasts, 0 if it does not say, None if its decoder
    may tell; raw_aac: it is no file but AAC frames, and this is their configuration."""

    data: bytes
    container: Container
    stated: float | None = None
    speakers: Speakers = ()
    raw_aac: bytes | None = None


def parts(data: bytes, container: Container) -> Iterator[Part]:
    """The files in `data`, at least one."""
    if container is WAV:
        yield from _wav(data)
    elif container is FLAC:
        yield from _cut(data, FLAC, sorted(at for head in _STREAMINFO_HEADS for at in _places(data, head)))
    elif container is OGG:
        yield from _cut(data, OGG, list(_links(data)))
    else:
        yield Part(data, container)


def _wav(data: bytes) -> Iterator[Part]:
    found = wav_parts(data)
    for part in found:
        if part.is_aac:
            yield _aac(data, part)
        elif part.plain:
            yield Part(data, WAV, part.stated_seconds, part.speakers)
        else:
            yield Part(part.rebuilt(data), WAV, part.stated_seconds, part.speakers)
    if not found:
        yield Part(data, WAV)


def _aac(data: bytes, part: WavPart) -> Part:
    frames = data[part.start : part.end]
    if len(frames) > 1 and frames[0] == 0xFF and frames[1] & 0xF6 == 0xF0:
        return Part(frames, ADTS)
    return Part(frames, ADTS, raw_aac=part.extra)


def _cut(data: bytes, container: Container, starts: list[int]) -> Iterator[Part]:
    if len(starts) < 2:
        yield Part(data, container)
        return
    for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
        yield Part(data[start:end], container)


def _places(data: bytes, sought: bytes) -> Iterator[int]:
    at = data.find(sought)
    while at >= 0:
        yield at
        at = data.find(sought, at + 1)


def _links(data: bytes) -> Iterator[int]:
    """Where the links of a chained Ogg begin: a first page that comes after another kind of page."""
    at, in_head = data.find(b"OggS"), False
    while 0 <= at <= len(data) - _PAGE_HEAD:
        table = data[at + _PAGE_HEAD : at + _PAGE_HEAD + data[at + 26]]
        content = at + _PAGE_HEAD + len(table)
        first = bool(data[at + 5] & _FIRST_PAGE) and data.startswith(_LINK_STARTS, content)
        if first and not in_head:
            yield at
        in_head = first
        following = content + sum(table)
        at = following if data.startswith(b"OggS", following) else data.find(b"OggS", at + 4)
