"""What is missing of the sound of an ASF (wma, wmv), by its own counts: packets of the file, and of each track the
numbers and sizes of its media objects.

FFmpeg passes over packets that make no sense and says nothing. Knows no decoder. ASF specification 01.20.03, sections
3 to 5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_STREAM = bytes.fromhex("9107dcb7b7a9cf118ee600c00c205365")
_AUDIO = bytes.fromhex("409e69f84d5bcf11a8fd00805f5c442b")
_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_OBJECT_HEAD = 24  # bytes: what it is, and its size
_DATA_HEAD = 50
_LIVE = 1  # flag: the counts were not known when the head was written
_SIZES = (0, 1, 2, 4)  # bytes of a field by its two bits


class Losses(NamedTuple):
    """objects: pieces of sound that are missing or not whole; cut: packets are missing at the end."""

    objects: int = 0
    cut: bool = False


class _Head(NamedTuple):
    packet: int  # bytes
    packets: int  # 0 where the file does not say
    audio: frozenset[int]  # numbers of its tracks
    data: int  # where the first packet begins


class _Payload(NamedTuple):
    track: int
    number: int  # of its media object
    numbers: int  # after how many they begin again
    size: int  # of the whole object, 0 where it is not said
    bytes: int


def losses(data: bytes) -> Losses:
    """Nothing where the head makes no sense."""
    try:
        head = _head(data)
    except struct.error:
        return Losses()
    if head is None:
        return Losses()
    objects = _Objects()
    for at in range(head.data, len(data) - head.packet + 1, head.packet):
        for payload in _payloads(data[at : at + head.packet]):
            if payload.track in head.audio:
                objects.add(payload)
        if head.packets and (at - head.data) // head.packet + 1 == head.packets:
            break
    return Losses(objects.lost, (len(data) - head.data) // head.packet < head.packets)


def _head(data: bytes) -> _Head | None:
    packet = packets = start = 0
    audio = set()
    at = _OBJECT_HEAD + 6
    while at + _OBJECT_HEAD <= len(data):
        name, (size,) = data[at : at + 16], struct.unpack_from("<Q", data, at + 16)
        if name == _FILE:
            count, flags, packet, most = struct.unpack_from("<16xQ24xIII", data, at + _OBJECT_HEAD + 16)
            packets = 0 if flags & _LIVE else count
            if packet != most:
                return None
        elif name == _STREAM and data[at + _OBJECT_HEAD : at + _OBJECT_HEAD + 16] == _AUDIO:
            audio.add(struct.unpack_from("<H", data, at + _OBJECT_HEAD + 48)[0] & 0x7F)
        elif name == _DATA:
            start = at + _DATA_HEAD
            break
        if size < _OBJECT_HEAD:
            return None
        at += size
    return _Head(packet, packets, frozenset(audio), start) if packet > 16 and audio and start else None


class _Objects:
    """lost: media objects of the sound that are missing or not whole so far."""

    def __init__(self) -> None:
        self.lost = 0
        self._last: dict[int, int] = {}
        self._wanted: dict[int, int] = {}  # bytes that the last object of a track still lacks

    def add(self, payload: _Payload) -> None:
        last = self._last.get(payload.track)
        if last is None or payload.number != last:
            self.lost += self._wanted.pop(payload.track, 0) != 0
            self._wanted[payload.track] = payload.size
            if last is not None:
                self.lost += (payload.number - last - 1) % payload.numbers
        if payload.size:
            self._wanted[payload.track] -= payload.bytes
        self._last[payload.track] = payload.number


def _payloads(packet: bytes) -> Iterator[_Payload]:
    """Those of one packet, up to where it makes no sense."""
    reader = _Reader(packet)
    try:
        if packet[0] & 0x80:
            reader.at += 1 + (packet[0] & 0x0F)
        lengths, fields = reader.number(1), reader.number(1)
        size = reader.number(_SIZES[lengths >> 5 & 3]) or len(packet)
        reader.number(_SIZES[lengths >> 1 & 3])
        end = size - reader.number(_SIZES[lengths >> 3 & 3])
        reader.at += 6
        several = lengths & 1
        flags = reader.number(1) if several else 1
        for _ in range(flags & 0x3F):
            yield from _payload(reader, fields, _SIZES[flags >> 6] if several else 0, end)
    except (IndexError, ValueError):
        return


def _payload(reader: _Reader, fields: int, length_size: int, end: int) -> Iterator[_Payload]:
    """length_size: bytes of the field that says how long it is, 0: it fills its packet. Raises ValueError."""
    width = _SIZES[fields >> 4 & 3]
    track, number = reader.number(1) & 0x7F, reader.number(width)
    reader.number(_SIZES[fields >> 2 & 3])
    extra = reader.number(_SIZES[fields & 3])
    whole = int.from_bytes(reader.packet[reader.at : reader.at + 4], "little") if extra >= 8 else 0
    reader.at += extra
    length = reader.number(length_size) if length_size else end - reader.at
    if not width or not 0 < length <= len(reader.packet) - reader.at:
        raise ValueError(length)
    ends = reader.at + length
    while extra == 1 and reader.at < ends:  # several whole objects, each behind its length
        size = reader.number(1)
        reader.at += size
        yield _Payload(track, number, 1 << 8 * width, size, size)
        number = (number + 1) % (1 << 8 * width)
    if extra != 1:
        yield _Payload(track, number, 1 << 8 * width, whole, length)
    reader.at = ends


class _Reader:
    """Little-endian numbers of a packet, from `at` on."""

    def __init__(self, packet: bytes) -> None:
        self.packet, self.at = packet, 0

    def number(self, size: int) -> int:
        """Of so many bytes. Raises IndexError behind the end."""
        if self.at + size > len(self.packet):
            raise IndexError(self.at)
        value = int.from_bytes(self.packet[self.at : self.at + size], "little")
        self.at += size
        return value
