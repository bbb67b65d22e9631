"""What an upload is, told by its first bytes and never by its name or declared type.

Owns the allow-list of containers. Knows no decoder library.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

TS_PACKET = 188  # bytes, MPEG transport stream
SEARCH_BYTES = 1 << 20  # how far the first frame of an MP3 or ADTS stream may be from the first byte that is not zero
STRAY_BYTES = 65_536  # how far the head of another container may be from the start
_CHAIN_BYTES = 40_000  # more than so many of them take
CHAIN = 4  # consecutive frame headers that random bytes do not have


@dataclass(frozen=True, slots=True)
class Container:
    """name: for people; demuxer: FFmpeg's name; soundfile_first: libsndfile reads it, and at least as fast.

    time: what the times of its packets are worth. "none": nothing; "first": those of the first; "bytes": nothing, but
    bytes without sound between frames are sound that was lost; "counted": they follow from the packets before, so that
    a gap means damage; "stamped": a gap is meant; "broadcast": likewise, but the clock may jump.
    """

    name: str
    demuxer: str
    soundfile_first: bool = False
    time: Literal["none", "first", "bytes", "counted", "stamped", "broadcast"] = "none"


WAV = Container("wav", "wav", soundfile_first=True)
W64 = Container("w64", "w64", soundfile_first=True)
FLAC = Container("flac", "flac", soundfile_first=True, time="counted")
AIFF = Container("aiff", "aiff", soundfile_first=True)
AU = Container("au", "au", soundfile_first=True)
CAF = Container("caf", "caf", soundfile_first=True)
# libsndfile stops where the first of several joined files ends, and people do join these; with Opus it is slow as well.
MP3 = Container("mp3", "mp3", time="bytes")
OGG = Container("ogg", "ogg", time="counted")
ADTS = Container("aac", "aac", time="bytes")
LOAS = Container("aac", "loas", time="bytes")
AC3 = Container("ac3", "ac3", time="bytes")
EAC3 = Container("eac3", "eac3", time="bytes")
MP4 = Container("mp4", "mov", time="stamped")
WEBM = Container("webm", "matroska", time="stamped")
MPEG_PS = Container("mpeg", "mpeg", time="broadcast")
MPEG_TS = Container("mpeg", "mpegts", time="broadcast")
AMR = Container("amr", "amr", time="counted")
DTS = Container("dts", "dts", time="bytes")
DTS_HD = Container("dts", "dtshd", time="bytes")
TRUEHD = Container("truehd", "truehd", time="bytes")
MLP = Container("mlp", "mlp", time="bytes")
AVI = Container("avi", "avi", time="first")
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
    # Of 16 bits and of 14, and both with the lower byte first.
    *((0, sync, DTS) for sync in (b"\x7f\xfe\x80\x01", b"\xfe\x7f\x01\x80", b"\x1f\xff\xe8\x00", b"\xff\x1f\x00\xe8")),
    (0, b"DTSHDHDR", DTS_HD),
    (4, b"\xf8\x72\x6f\xba", TRUEHD),
    (4, b"\xf8\x72\x6f\xbb", MLP),
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
_AC3_KBPS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)


def sniff(data: memoryview) -> tuple[Container, int] | None:
    """The container of `data` and where it begins, behind tags and stray bytes; None for anything that is not on the
    list."""
    start = tag_length(data)
    if container := _at_start(data[start:]):
        return container, start
    start += _zeros(data[start:])
    tail = data[start:]
    found = _at_start(tail) or _frames_at(tail)
    stray = (found, 0) if found else _stray(tail) or _mpeg_audio(tail)
    return None if stray is None else (stray[0], start + stray[1])


def sniff_at_once(data: memoryview) -> Container | None:
    """The container of `data` if it begins at once, or behind a tag."""
    tail = data[tag_length(data) :]
    return _at_start(tail) or _frames_at(tail)


def _frames_at(data: memoryview) -> Container | None:
    """MP3 or ADTS AAC, by frames that follow each other from the first byte on."""
    return _chain(bytes(data[:_CHAIN_BYTES]), 0, anchored=False) if len(data) and data[0] == 0xFF else None


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
    return MPEG_TS if _is_transport_stream(data) else _coded_frames(data)


def _coded_frames(data: memoryview) -> Container | None:
    """AC-3, E-AC-3 or AAC in LOAS, by frames that follow each other."""
    for container, length in ((AC3, _ac3_length), (EAC3, _eac3_length), (LOAS, _loas_length)):
        at, count = 0, 0
        while count < CHAIN and (size := length(bytes(data[at : at + 6]))):
            at, count = at + size, count + 1
        if count == CHAIN or (count and at >= len(data)):
            return container
    return None


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


def tag_length(data: memoryview) -> int:
    """Bytes of the ID3v2 tags before the audio; 0 if there is none."""
    start = 0
    while bytes(data[start : start + 3]) == b"ID3" and len(data) >= start + 10:
        flags, *size = bytes(data[start + 5 : start + 10])
        if any(byte & 0x80 for byte in size):
            break
        start += 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3]) + (10 if flags & 0x10 else 0)
    return start


def _is_transport_stream(data: memoryview) -> bool:
    """Also with four bytes of time before each packet, as cameras and discs have it."""
    return any(
        len(data) > before + 2 * (TS_PACKET + before)
        and all(data[before + packet * (TS_PACKET + before)] == 0x47 for packet in range(3))
        for before in (0, 4)
    )


def _mpeg_audio(data: memoryview) -> tuple[Container, int] | None:
    """MP3 (layers 1 to 3) or ADTS AAC, and the first place from which frames follow each other, as a cut file starts
    anywhere."""
    window = bytes(data[:SEARCH_BYTES])
    position = window.find(b"\xff")
    while position >= 0:
        kind = _chain(window, position, anchored=not window[:position].strip(b"\x00"))
        if kind is not None:
            return kind, position
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
        found = frame_head(window[position : position + 6])
        if found is None:
            return kind if anchored and position >= len(window) - 6 else None
        kind = found[0]
        position += found[1]
    return kind


def _ac3_length(header: bytes) -> int:
    """Bytes of the frame with this header (ETSI TS 102 366, 4.4.1), 0 if it is none."""
    if len(header) < 6 or header[:2] != b"\x0b\x77" or header[5] >> 3 > 10:
        return 0
    rate, code = header[4] >> 6, header[4] & 63
    if rate == 3 or code >= 2 * len(_AC3_KBPS):
        return 0
    kbps = _AC3_KBPS[code // 2]
    return (4 * kbps, 2 * (kbps * 1000 * 1536 // (44_100 * 16) + code % 2), 6 * kbps)[rate]


def _eac3_length(header: bytes) -> int:
    """Likewise (annex E)."""
    if len(header) < 6 or header[:2] != b"\x0b\x77" or not 11 <= header[5] >> 3 <= 16:
        return 0
    return 2 * (((header[2] & 7) << 8 | header[3]) + 1)


def _loas_length(header: bytes) -> int:
    """Likewise (ISO 14496-3, 1.7.2)."""
    if len(header) < 3 or header[0] != 0x56 or header[1] & 0xE0 != 0xE0:
        return 0
    return ((header[1] & 0x1F) << 8 | header[2]) + 3


class MpegFrame(NamedTuple):
    """bytes: of the whole frame; samples: that it decodes to; rate: Hz."""

    bytes: int
    samples: int
    rate: int


def frame_head(header: bytes) -> tuple[Container, int] | None:
    """Kind and length in bytes of the frame with this header (14496-3 annex 1.A for AAC)."""
    if len(header) < 6 or header[0] != 0xFF:
        return None
    if header[1] & 0xF6 == 0xF0:
        length = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
        return (ADTS, length) if length > 7 and header[2] >> 2 & 15 < 13 else None
    frame = frame_of_mpeg(header)
    return None if frame is None else (MP3, frame.bytes)


def frame_of_mpeg(header: bytes) -> MpegFrame | None:
    """The frame of MPEG layer 1 to 3 with this header (ISO 11172-3 2.4.1.3, 13818-3)."""
    if len(header) < 4 or header[0] != 0xFF:
        return None
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    kbps, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if header[1] & 0xE0 != 0xE0 or version == 1 or layer == 0 or kbps in {0, 15} or rate == 3:
        return None
    bits = 1000 * _KBPS[(version == 3, layer)][kbps - 1]
    hertz = (44_100, 48_000, 32_000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
    if layer == 3:
        return MpegFrame(4 * (12 * bits // hertz + padding), 384, hertz)
    samples = 576 if layer == 1 and version != 3 else 1152
    return MpegFrame(samples // 8 * bits // hertz + padding, samples, hertz)
