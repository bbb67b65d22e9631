"""What an upload is, told by its first bytes and never by its name or declared type.

Owns the allow-list of containers. Knows no decoder library.
"""

from __future__ import annotations

from dataclasses import dataclass

TS_PACKET = 188  # bytes, MPEG transport stream
SEARCH_BYTES = 65_536  # how far the first frame of an MP3 or ADTS stream may be from the start
CHAIN = 4  # consecutive frame headers that random bytes do not have


@dataclass(frozen=True, slots=True)
class Container:
    """name: for people; demuxer: FFmpeg's name; soundfile_first: libsndfile reads it, and at least as fast."""

    name: str
    demuxer: str
    soundfile_first: bool = False


WAV = Container("wav", "wav", soundfile_first=True)
W64 = Container("w64", "w64", soundfile_first=True)
FLAC = Container("flac", "flac", soundfile_first=True)
AIFF = Container("aiff", "aiff", soundfile_first=True)
AU = Container("au", "au", soundfile_first=True)
CAF = Container("caf", "caf", soundfile_first=True)
# libsndfile stops where the first of several joined files ends, and people do join these; with Opus it is slow as well.
MP3 = Container("mp3", "mp3")
OGG = Container("ogg", "ogg")
ADTS = Container("aac", "aac")
MP4 = Container("mp4", "mov")
WEBM = Container("webm", "matroska")
MPEG_PS = Container("mpeg", "mpeg")
MPEG_TS = Container("mpeg", "mpegts")
AMR = Container("amr", "amr")

_MAGIC: tuple[tuple[int, bytes, Container], ...] = (
    (0, b"fLaC", FLAC),
    (0, b"\x1aE\xdf\xa3", WEBM),
    (0, b".snd", AU),
    (0, b"caff", CAF),
    (0, b"riff\x2e\x91\xcf\x11", W64),
    (0, b"#!AMR", AMR),
    (0, b"\x00\x00\x01\xba", MPEG_PS),
    (4, b"ftyp", MP4),
    (4, b"moov", MP4),
    (4, b"mdat", MP4),
    (4, b"wide", MP4),
    (4, b"styp", MP4),
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


def sniff(data: memoryview) -> Container | None:
    """The container of `data`, or None for anything that is not on the list."""
    data = data[_tag_length(data) :]
    head = bytes(data[:64])
    for offset, magic, container in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return container
    if head[:4] in {b"RIFF", b"RIFX", b"RF64"} and head[8:12] == b"WAVE":
        return WAV
    if head[:4] == b"FORM" and head[8:12] in {b"AIFF", b"AIFC"}:
        return AIFF
    if head[:4] == b"OggS":
        return OGG
    if _is_transport_stream(data):
        return MPEG_TS
    return _mpeg_audio(data)


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


def _mpeg_audio(data: memoryview) -> Container | None:
    """MP3 (layers 1 to 3) or ADTS AAC: the first place from which frames follow each other, as a cut file starts
    anywhere."""
    window = bytes(data[:SEARCH_BYTES])
    position = window.find(b"\xff")
    while position >= 0:
        kind = _chain(window, position, anchored=not window[:position].strip(b"\x00"))
        if kind is not None:
            return kind
        position = window.find(b"\xff", position + 1)
    return None


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
