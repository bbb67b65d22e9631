"""Files of different kinds that are joined in one upload: where each ends by its own structure, or by the head of the
next.

Those of one kind that are joined may stay together where their reader goes on over the join. Knows no decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from app.media.flac import block_sizes, first_sample
from app.media.sniff import (
    ADTS,
    AIFF,
    AMR,
    ASF,
    AU,
    AVI,
    CAF,
    CHAIN,
    FLAC,
    FLV,
    MP3,
    MP4,
    MPEG_PS,
    MPEG_TS,
    OGG,
    TS_PACKET,
    W64,
    WAV,
    WEBM,
    Container,
    frame_head,
    sniff_at_once,
    tag_length,
)

_OPEN = 0x7FFF_0000  # bytes, and more: written by programs that do not know the length
_LEAST_BYTES = 64  # of a further file
_MOST_FRAME = 1 << 15  # bytes of a frame of FLAC, where its head does not say
_CAF_CHUNKS = frozenset(b"desc data free kuki strg mark regn inst midi ovvw peak edct info umid uuid chan pakt".split())
_LAST_FRAMES, _ID3V1 = 1 << 13, 128  # bytes
# The first bytes of the data, and of four kinds of index behind it.
_ASF_OBJECTS = frozenset(bytes.fromhex(name) for name in ("3626b275", "90080033", "d329e2d6", "f803b1fe", "d03fb73c"))
_ATOMS = frozenset(
    b"ftyp moov mdat free skip wide moof mfra sidx ssix styp uuid pnot PICT prfl junk udta meta emsg prft".split()
)
_WEAK = {AMR, MPEG_TS, MPEG_PS}  # almost anything may go on as they do
_MEASURED = {AIFF, AU, W64, CAF, MP4, WEBM}  # whose length nobody else compares
_GOES_ON = {WAV, FLAC, OGG, MP3, MPEG_TS, MPEG_PS}  # whose readers read joined ones
# What the head of a file begins with, or what stands in it so many bytes on.
_HEADS = (
    (b"fLaC\x00\x00\x00\x22", 0, FLAC),
    (b"fLaC\x80\x00\x00\x22", 0, FLAC),
    (b"WAVEfmt ", 8, WAV),
    (b"WAVEds64", 8, WAV),
    (b"OggS\x00\x02" + bytes(8), 0, OGG),
    (b"\x1aE\xdf\xa3", 0, WEBM),
    (b"ftyp", 4, MP4),
    (b"#!AMR", 0, AMR),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c", 0, ASF),
    (b"FLV\x01", 0, FLV),
    (b"AIFFCOMM", 8, AIFF),
    (b"AIFCFVER", 8, AIFF),
    (b".snd\x00\x00\x00", 0, AU),
    (b"caff\x00\x01\x00\x00desc", 0, CAF),
    (b"riff\x2e\x91\xcf\x11\xa5\xd6", 0, W64),
    (b"AVI LIST", 8, AVI),
    (b"ID3\x03\x00", 0, MP3),
    (b"ID3\x04\x00", 0, MP3),
)
_AMR_BYTES = {b"#!AMR\n": (12, 13, 15, 17, 19, 20, 26, 31, 5, -1, -1, -1, -1, -1, -1, 0),
              b"#!AMR-WB\n": (17, 23, 32, 36, 40, 46, 50, 58, 60, 5, -1, -1, -1, -1, 0, 0)}  # fmt: skip


def files(data: bytes, container: Container) -> Iterator[tuple[bytes, Container]]:
    """The files in `data`, which begins with one of `container`."""
    at = 0
    while True:
        found = _next_file(memoryview(data)[at:], data, at, container)
        if found is None:
            yield data[at:] if at else data, container
            return
        end, following = found
        yield data[at:end], container
        at, container = end, following


def is_cut(data: bytes, container: Container) -> bool:
    """Whether a file says that it goes on behind the end of `data`."""
    return container in _MEASURED and _ENDS[container](memoryview(data)) > len(data) + 1


def _next_file(view: memoryview, data: bytes, at: int, container: Container) -> tuple[int, Container] | None:
    """Where the next file begins that the reader of this one does not read, and what it is."""
    measure = _ENDS.get(container)
    end = at + measure(view) if measure else at
    while at < end <= len(data) - _LEAST_BYTES:
        following = sniff_at_once(memoryview(data)[end:])
        if following is None:
            break
        if following is not container or container not in _GOES_ON:
            return end, following
        length = measure(memoryview(data)[end:]) if measure else 0
        if not length:
            return _head_behind(data, end + 1, container)
        end += length
    if end >= len(data) - _LEAST_BYTES or (end > at and container not in _WEAK):
        return None
    return _head_behind(data, at + 1, container)


def _head_behind(data: bytes, start: int, container: Container) -> tuple[int, Container] | None:
    """The first head at or behind `start` of a file that the reader of `container` does not read."""
    first: tuple[int, Container] | None = None
    for literal, offset, kind in _HEADS:
        if kind is container and container in _GOES_ON:
            continue
        found = data.find(literal, start + offset, len(data) if first is None else first[0] + offset + len(literal))
        while found >= 0:
            if sniff_at_once(memoryview(data)[found - offset :]) is kind:
                first = found - offset, kind
                break
            found = data.find(literal, found + 1, len(data) if first is None else first[0] + offset + len(literal))
    return first


# --- Where a file ends: bytes from its start, 0 where it does not say -------------------------------------------------


def _little(view: memoryview, at: int, size: int) -> int:
    return int.from_bytes(view[at : at + size], "little")


def _big(view: memoryview, at: int, size: int) -> int:
    return int.from_bytes(view[at : at + size], "big")


def _riff(view: memoryview) -> int:
    size = _little(view, 4, 4)
    if bytes(view[:4]) != b"RIFF":
        size = _little(view, 20, 8) if bytes(view[12:16]) == b"ds64" else 0
    if not 0 < size < (_OPEN if bytes(view[:4]) == b"RIFF" else 1 << 48):
        return 0
    end = 8 + size + size % 2
    while bytes(view[end : end + 4]) == b"RIFF" and bytes(view[end + 8 : end + 12]) == b"AVIX":
        end += 8 + _little(view, end + 4, 4)
    return end


def _aiff(view: memoryview) -> int:
    size = _big(view, 4, 4)
    return 8 + size + size % 2 if 0 < size < _OPEN else 0


def _au(view: memoryview) -> int:
    size = _big(view, 8, 4)
    return _big(view, 4, 4) + size if 0 < size < _OPEN else 0


def _w64(view: memoryview) -> int:
    size = _little(view, 16, 8)
    return size + -size % 8 if size < 1 << 48 else 0


def _caf(view: memoryview) -> int:
    at = 8
    while at + 12 <= len(view) and bytes(view[at : at + 4]) in _CAF_CHUNKS:
        size = _big(view, at + 4, 8)
        if size >= 1 << 48:
            return 0
        at += 12 + size
    return at


def _mp4(view: memoryview) -> int:
    at, movie = 0, False
    while at + 8 <= len(view):
        size, name = _big(view, at, 4), bytes(view[at + 4 : at + 8])
        if name not in _ATOMS or (name == b"ftyp" and movie):
            break
        movie |= name == b"moov"
        size = _big(view, at + 8, 8) if size == 1 else size
        if size < 8:
            return len(view)  # to the end of the file
        at += size
    return at


def _webm(view: memoryview) -> int:
    at = 0
    for name, length in ((b"\x1aE\xdf\xa3", 4), (b"\x18\x53\x80\x67", 4)):
        if bytes(view[at : at + length]) != name or at + length >= len(view):
            return 0
        at += length
        width = 9 - view[at].bit_length()
        size = _big(view, at, width) & ((1 << 7 * width) - 1)
        if size == (1 << 7 * width) - 1:
            return 0
        at += width + size
    return at


def _ogg(view: memoryview) -> int:
    at = 0
    while bytes(view[at : at + 4]) == b"OggS" and at + 27 <= len(view):
        segments = view[at + 26]
        at += 27 + segments + sum(view[at + 27 : at + 27 + segments])
    return min(at, len(view))


def _asf(view: memoryview) -> int:
    at = 0
    while at + 24 <= len(view) and (not at or bytes(view[at : at + 4]) in _ASF_OBJECTS):
        size = _little(view, at + 16, 8)
        if not 24 <= size <= len(view) - at:
            break
        at += size
    return at


def _flv(view: memoryview) -> int:
    at = 13
    while at + 15 <= len(view) and view[at] in (8, 9, 18):
        at += 15 + _big(view, at + 1, 3)
    return at


def _amr(view: memoryview) -> int:
    magic = next((magic for magic in _AMR_BYTES if bytes(view[: len(magic)]) == magic), None)
    if magic is None:
        return 0
    sizes, at = _AMR_BYTES[magic], len(magic)
    while at < len(view) and not view[at] & 0x83 and sizes[view[at] >> 3 & 15] >= 0:
        at += 1 + sizes[view[at] >> 3 & 15]
    return min(at, len(view))


def _transport_stream(view: memoryview) -> int:
    packet, before = (TS_PACKET, 0) if view[0] == 0x47 else (TS_PACKET + 4, 4)
    signs = bytes(view[before::packet])
    return packet * (len(signs) - len(signs.lstrip(b"\x47")))


def _program_stream(view: memoryview) -> int:
    at = 0
    while at + 14 <= len(view) and bytes(view[at : at + 3]) == b"\x00\x00\x01" and view[at + 3] >= 0xB9:
        if view[at + 3] == 0xBA:
            at += 14 + (view[at + 13] & 7) if view[at + 4] >> 6 == 1 else 12
        else:
            at += 4 if view[at + 3] == 0xB9 else 6 + _big(view, at + 4, 2)
    return at


def _frames(view: memoryview) -> int:
    """All of it, if frames of its kind follow each other to the end, but for a tag."""
    kind = frame_head(bytes(view[tag_length(view) :][:6]))
    tail = bytes(view[-_LAST_FRAMES:])
    tail = tail[:-_ID3V1] if tail[-_ID3V1:][:3] == b"TAG" else tail
    start = tail.find(b"\xff")
    while kind is not None and start >= 0:
        at, count = start, 0
        while (found := frame_head(tail[at : at + 6])) and found[0] is kind[0]:
            at, count = at + found[1], count + 1
        if count >= CHAIN and at == len(tail):
            return len(view)
        start = tail.find(b"\xff", start + 1)
    return 0


def _flac(view: memoryview) -> int:
    """All of it, if its last frame is at the end."""
    block, most = block_sizes(bytes(view[8:12]))
    total = _big(view, 21, 5) & 0xF_FFFF_FFFF
    tail = bytes(view[-(_big(view, 15, 3) or _MOST_FRAME) :])
    at = tail.rfind(b"\xff\xf8")
    while at >= 0 and total and block == most:
        first = first_sample(tail[at : at + 16], block)
        if first is not None and first < total <= first + block:
            return len(view)
        at = tail.rfind(b"\xff\xf8", 0, at)
    return 0


_ENDS: Mapping[Container, Callable[[memoryview], int]] = {
    WAV: _riff, AVI: _riff, AIFF: _aiff, AU: _au, W64: _w64, CAF: _caf, MP4: _mp4, WEBM: _webm, OGG: _ogg, ASF: _asf,
    FLV: _flv, AMR: _amr, FLAC: _flac, MP3: _frames, ADTS: _frames, MPEG_TS: _transport_stream,
    MPEG_PS: _program_stream,
}  # fmt: skip
