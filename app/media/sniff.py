"""What an upload is, told by its first bytes and never by its name or declared type.

Owns the allow-list of containers. Knows no decoder library.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

TS_PACKET = 188  # bytes, MPEG transport stream
SEARCH_BYTES = 1 << 20  # how far the first frame of an MP3 or ADTS stream may be from the first byte that is not zero
STRAY_BYTES = 65_536  # how far the head of another container may be from the start
CHAIN = 4  # consecutive frame headers that random bytes do not have


@dataclass(frozen=True, slots=True)
class Container:
    """name: for people; demuxer: FFmpeg's name; soundfile_first: libsndfile reads it, and at least as fast.

    time: what the times of its packets are worth. "none": nothing; "counted": they follow from the packets before, so
    that a gap means damage; "stamped": a gap is meant; "broadcast": likewise, but the clock may jump.
    """

    name: str
    demuxer: str
    soundfile_first: bool = False
    time: Literal["none", "counted", "stamped", "broadcast"] = "none"


WAV = Container("wav", "wav", soundfile_first=True)
W64 = Container("w64", "w64", soundfile_first=True)
FLAC = Container("flac", "flac", soundfile_first=True, time="counted")
AIFF = Container("aiff", "aiff", soundfile_first=True)
AU = Container("au", "au", soundfile_first=True)
CAF = Container("caf", "caf", soundfile_first=True)
# libsndfile stops where the first of several joined files ends, and people do join these; with Opus it is slow as well.
MP3 = Container("mp3", "mp3", time="counted")
OGG = Container("ogg", "ogg", time="counted")
ADTS = Container("aac", "aac", time="counted")
MP4 = Container("mp4", "mov", time="stamped")
WEBM = Container("webm", "matroska", time="stamped")
MPEG_PS = Container("mpeg", "mpeg", time="broadcast")
MPEG_TS = Container("mpeg", "mpegts", time="broadcast")
AMR = Container("amr", "amr", time="counted")
DTS = Container("dts", "dts", time="counted")
TRUEHD = Container("truehd", "truehd", time="counted")
AVI = Container("avi", "avi")
ASF = Container("wma", "asf", time="stamped")
FLV = Container("flv", "flv", time="stamped")

_MAGIC: tuple[tuple[int, bytes, Container], ...] = (
    (0, b"fLaC", FLAC),
    (0, b"\x1aE\xdf\xa3", WEBM),
    (0, b".snd", AU),
    (0, b"caff", CAF),
    (0, b"riff\x2e\x91\xcf\x11", W64),
    (0, b"#!AMR", AMR),
    (0, b"\x00\x00\x01\xba", MPEG_PS),
    (0, b"\x7f\xfe\x80\x01", DTS),
    (4, b"\xf8\x72\x6f\xba", TRUEHD),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c", ASF),
    (0, b"FLV\x01", FLV),
    (4, b"ftyp", MP4),
    (4, b"moov", MP4),
    (4, b"mdat", MP4),
    (4, b"wide", MP4),
    (4, b"styp", MP4),
)
# By its first four bytes and the four from the eighth.
_FORMS = {
    **dict.fromkeys(((form, b"WAVE") for form in (b"RIFF", b"RIFX", b"RF64", b"BW64")), WAV),
    (b"FORM", b"AIFF"): AIFF,
    (b"FORM", b"AIFC"): AIFF,
    (b"RIFF", b"AVI "): AVI,
}
# Atoms that say nothing by themselves but may precede those that do, in films of cameras older than `ftyp`.
_IDLE_ATOMS = {b"skip", b"free", b"junk", b"pnot", b"PICT", b"uuid", b"prfl"}
_ATOMS = 16  # that are passed over
# Heads that are long enough to be sought in other bytes: what is left of an upload's own header, or of a cut.
_STRAY = (
    (re.compile(rb"\x1aE\xdf\xa3[\x00-\xff]{1,60}?\x42\x82[\x80-\x90\x40]\x00{0,7}(?:webm|matroska)"), WEBM),
    (re.compile(rb"RIFF[\x00-\xff]{4}WAVEfmt "), WAV),
    (re.compile(rb"fLaC[\x00\x80]\x00\x00\x22"), FLAC),
    (re.compile(rb"OggS\x00\x02\x00{8}"), OGG),
)

# Bit rates by (MPEG-1, layer bits: 3 = layer I, 2 = II, 1 = III) and index 1 to 14.
_KBPS = {
    (True, 3): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 3): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 1): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def sniff(data: memoryview) -> tuple[Container, int] | None:
    """The container of `data` and where it begins, behind tags and stray bytes; None for anything that is not on the
    list."""
    start = _tag_length(data)
    tail = data[start:]
    if container := _at_start(tail):
        return container, start
    found = _stray(tail) or _mpeg_audio(tail)
    return None if found is None else (found[0], start + found[1])


def _at_start(data: memoryview) -> Container | None:
    head = bytes(data[:64])
    for offset, magic, container in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return container
    if form := _FORMS.get((head[:4], head[8:12])):
        return form
    if head[:4] == b"OggS":
        return OGG
    if _is_quicktime(data):
        return MP4
    return MPEG_TS if _is_transport_stream(data) else None


def _is_quicktime(data: memoryview) -> bool:
    """Idle atoms, and behind them one that only such a film has."""
    at = 0
    for _ in range(_ATOMS):
        size, name = int.from_bytes(data[at : at + 4], "big"), bytes(data[at + 4 : at + 8])
        if at and name in {b"ftyp", b"moov", b"mdat", b"wide"}:
            return True
        if name not in _IDLE_ATOMS or size < 8:
            return False
        at += size
    return False


def _stray(data: memoryview) -> tuple[Container, int] | None:
    window = bytes(data[:STRAY_BYTES])
    found = ((match.start(), container) for head, container in _STRAY if (match := head.search(window)))
    first = min(found, key=lambda pair: pair[0], default=None)
    return None if first is None else (first[1], first[0])


def _tag_length(data: memoryview) -> int:
    """Bytes of the ID3v2 tags before the audio; 0 if there is none."""
    start = 0
    while bytes(data[start : start + 3]) == b"ID3" and len(data) >= start + 10:
        flags, *size = bytes(data[start + 5 : start + 10])
        if any(byte & 0x80 for byte in size):
            break
        start += 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3]) + (10 if flags & 0x10 else 0)
    return start


def _is_transport_stream(data: memoryview) -> bool:
    return len(data) > 2 * TS_PACKET and all(data[packet * TS_PACKET] == 0x47 for packet in range(3))


def _mpeg_audio(data: memoryview) -> tuple[Container, int] | None:
    """MP3 (layers 1 to 3) or ADTS AAC, and the first place from which frames follow each other, as a cut file starts
    anywhere."""
    begin = _zeros(data)
    window = bytes(data[begin : begin + SEARCH_BYTES])
    position = window.find(b"\xff")
    while position >= 0:
        kind = _chain(window, position, anchored=not window[:position].strip(b"\x00"))
        if kind is not None:
            return kind, begin + position
        position = window.find(b"\xff", position + 1)
    return None


def _zeros(data: memoryview) -> int:
    """How many zeros are in front."""
    for at in range(0, len(data), STRAY_BYTES):
        rest = bytes(data[at : at + STRAY_BYTES]).lstrip(b"\x00")
        if rest:
            return min(len(data), at + STRAY_BYTES) - len(rest)
    return len(data)


def _chain(window: bytes, position: int, *, anchored: bool) -> Container | None:
    """The kind of the frames at `position` if `CHAIN` of them follow each other, or all there are where nothing but
    zeros lies before them (anchored)."""
    kind: Container | None = None
    for _ in range(CHAIN):
        found = _frame(window[position : position + 6])
        if found is None:
            return kind if anchored and position >= len(window) - 6 else None
        kind = found[0]
        position += found[1]
    return kind


def _frame(header: bytes) -> tuple[Container, int] | None:
    """Kind and length in bytes of the frame with this header (ISO 11172-3 2.4.1.3, 13818-3, 14496-3 annex 1.A)."""
    if len(header) < 6 or header[0] != 0xFF:
        return None
    if header[1] & 0xF6 == 0xF0:
        length = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
        return (ADTS, length) if length > 7 and header[2] >> 2 & 15 < 13 else None
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    kbps, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if header[1] & 0xE0 != 0xE0 or version == 1 or layer == 0 or kbps in {0, 15} or rate == 3:
        return None
    bits = 1000 * _KBPS[(version == 3, layer)][kbps - 1]
    hertz = (44_100, 48_000, 32_000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
    if layer == 3:
        return MP3, 4 * (12 * bits // hertz + padding)
    return MP3, (72 if layer == 1 and version != 3 else 144) * bits // hertz + padding
