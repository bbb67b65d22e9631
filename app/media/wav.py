"""Where the sound of a wav file lies: in one data chunk, in several, behind a header that is wrong, in files joined.

Reads RIFF, RF64 and BW64 (EBU Tech 3306, ITU-R BS.2088). Owns what is believed of a header. Knows no decoder.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, replace

from app.media.downmix import Speakers, speakers_of_mask

_HEAD = re.compile(rb"(?:RIFF|RF64|BW64)[\x00-\xff]{4}WAVE")
_JOINED = re.compile(rb"(?:RIFF|RF64|BW64)[\x00-\xff]{4}WAVE(?:fmt |JUNK|junk|ds64|bext|LIST)")
_NAME = re.compile(rb"[ -~]{4}")
_OPEN = 0x7FFF_0000  # bytes; recorders and streams that do not know the length write this or more
_LONGEST = 1 << 48  # bytes; RF64 has longer numbers for the same
_LEAST_SECONDS = 0.1  # of sound behind the stated end that are taken for sound
_TAGS = (b"ID3", b"TAG", b"APETAGEX")  # what players put behind any file
_EXTENSIBLE = 0xFFFE
_MPEG = {0x0050, 0x0055}
_AAC = {0x00FF, 0x1600, 0x706D, 0xA106}  # format tags of AAC, with and without its own frames (RFC 2361 and later ones)


@dataclass(frozen=True, slots=True)
class WavPart:
    """A section of sound. format: content of its fmt chunk; start, end: of its samples; stated: bytes that the header
    says there are where it says more than the file holds, else 0; plain: any decoder reads the whole file rightly as
    it is."""

    format: bytes
    start: int
    end: int
    stated: int = 0
    plain: bool = False

    @property
    def tag(self) -> int:
        return int.from_bytes(self.format[:2], "little")

    @property
    def is_aac(self) -> bool:
        return self.tag in _AAC

    @property
    def extra(self) -> bytes:
        """What the fmt chunk holds for the decoder."""
        return self.format[18 : 18 + int.from_bytes(self.format[16:18], "little")]

    @property
    def is_mpeg(self) -> bool:
        return self.tag in _MPEG

    @property
    def share(self) -> float:
        """How much of what the header tells of is there."""
        return max(1, self.end - self.start) / self.stated if self.stated else 1.0

    @property
    def speakers(self) -> Speakers:
        if self.tag != _EXTENSIBLE or len(self.format) < 24:
            return ()
        return speakers_of_mask(int.from_bytes(self.format[20:24], "little"))

    def rebuilt(self, data: bytes) -> bytes:
        """The part as a file of its own."""
        samples = memoryview(data)[self.start : self.end]
        length = min(len(samples), 0xFFFF_FFFF - len(self.format) - 64)
        form = struct.pack("<4sI", b"fmt ", len(self.format)) + self.format + b"\0" * (len(self.format) % 2)
        body = b"WAVE" + form + struct.pack("<4sI", b"data", length)
        return b"".join((struct.pack("<4sI", b"RIFF", len(body) + length), body, samples[:length]))


def wav_parts(data: bytes) -> list[WavPart]:
    """The sections of sound in the order of the file; none where its chunks make no sense (or are big-endian)."""
    parts: list[WavPart] = []
    at: int | None = 0
    while at is not None and _HEAD.match(data, at):
        at = _Walk(data, at, parts).run()
    return parts if len(parts) == 1 else [replace(part, plain=False) for part in parts]


class _Walk:
    """Over the chunks of one file, from its head at `at`, which appends its parts."""

    def __init__(self, data: bytes, at: int, parts: list[WavPart]) -> None:
        self._data, self._at, self._parts = data, at + 12, parts
        self._format, self._long_size = b"", 0
        self._plain = at == 0 and data[:4] == b"RIFF"

    def run(self) -> int | None:
        """Where the next file begins, None at the end."""
        while len(self._data) - self._at >= 8:
            if _HEAD.match(self._data, self._at):
                return self._at
            name, size = struct.unpack_from("<4sI", self._data, self._at)
            if not _NAME.fullmatch(name):
                return self._next_file(self._at)
            start = self._at + 8
            self._at = self._samples(start, size) if name == b"data" else self._chunk(name, start, size)
        return None

    def _chunk(self, name: bytes, start: int, size: int) -> int:
        """Take what matters of a chunk. Where the next one is."""
        if name == b"fmt ":
            self._format = self._data[start : start + min(size, 1024)]
        elif name == b"ds64" and size >= 16:
            self._long_size = int.from_bytes(self._data[start + 8 : start + 16], "little")
        end = self._behind(start, start + size)
        return end if end <= len(self._data) else self._next_file(start - 8)

    def _samples(self, start: int, size: int) -> int:
        stated = self._long_size if size == 0xFFFF_FFFF else size
        left = len(self._data) - start
        known = 0 < stated < (_LONGEST if stated == self._long_size else _OPEN)
        if known and stated <= left:
            end, goes_on = self._end(start, start + stated)
        elif size == 0 and (left == 0 or self._is_chunk(start)):
            end, goes_on = start, False
        else:
            end, goes_on = self._next_file(start), False
        plain = self._plain and not goes_on and (end == start + stated or (stated > 0 and end == len(self._data)))
        if self._format:
            self._parts.append(WavPart(self._format, start, end, stated if known and stated > left else 0, plain))
        return self._behind(start, end)

    def _end(self, start: int, stated: int) -> tuple[int, bool]:
        """Where samples end that are said to end at `stated`, and whether that is later: what follows there is neither
        a chunk nor another file, but too much to be nothing."""
        at = self._behind(start, stated)
        if len(self._data) - at < 8 or self._is_chunk(at) or self._data.startswith(_TAGS, at):
            return stated, False
        rest = self._next_file(at)
        least = _LEAST_SECONDS * int.from_bytes(self._format[8:12], "little")
        return (rest, True) if rest - at >= least and any(self._data[at : at + 65_536]) else (stated, False)

    def _behind(self, start: int, end: int) -> int:
        """Where the chunk behind one from `start` to `end` begins: a chunk of an odd length is followed by a zero,
        which some programs forget."""
        if (end - start) % 2 == 0:
            return end
        if not self._is_chunk(end + 1) and self._is_chunk(end):
            self._plain = False
            return end
        return end + 1

    def _is_chunk(self, at: int) -> bool:
        if at + 8 > len(self._data):
            return False
        name, size = struct.unpack_from("<4sI", self._data, at)
        known = name in {b"data", b"fmt ", b"LIST", b"fact"} or _HEAD.match(self._data, at) is not None
        return known or (_NAME.fullmatch(name) is not None and at + 8 + size <= len(self._data))

    def _next_file(self, start: int) -> int:
        found = _JOINED.search(self._data, start)
        return found.start() if found else len(self._data)
