"""Where the sound of an AVI rests. Its packets have no times: what is missing shows in empty chunks, in pictures that
go on without sound, and in places that are no chunks.

Knows no decoder. AVI RIFF File Reference (Microsoft), with the lists of OpenDML for long files.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

_LISTS = (b"LIST", b"RIFF")
_PASSED = {b"INFO", b"odml"}  # lists without sound
_NAME = re.compile(rb"[0-9A-Za-z ]{4}")
_CHUNK = re.compile(rb"(?:\d\d(?:wb|dc|db)|ix\d\d|idx1|JUNK)")
_MOST_BYTES = 1 << 26  # of a chunk that is sought behind damage
_STEP_SECONDS = 0.5  # by which sound must fall behind the pictures, and stay there; it is stored some tenths ahead


class Pause(NamedTuple):
    """before: byte of the packet that it precedes; lost: not meant, but sound that is missing."""

    before: int
    seconds: float
    lost: bool


@dataclass
class _Stream:
    """kind: auds, vids; unit: seconds of a sample or of a chunk; sample: bytes, 0 where each chunk lasts one unit;
    block: bytes of sound at least one of which is a chunk of it, 0 if unknown."""

    kind: bytes
    unit: float
    sample: int
    block: int = 0

    def seconds(self, size: int) -> float:
        if self.sample:
            return size / self.sample * self.unit
        return self.unit * (max(1, -(-size // self.block)) if self.block else 1)


@dataclass
class _Sound:
    """What the walk gathers of one track. clock: seconds of its chunks so far; pictures: likewise."""

    clock: float = 0.0
    pictures: float = 0.0
    picture: float = 0.0  # seconds of one
    last_picture: int = 0  # chunks of sound before it
    starts: list[int] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)  # of the sound behind the pictures, at each of `starts`
    clocks: list[float] = field(default_factory=list)  # likewise
    pauses: list[Pause] = field(default_factory=list)
    empty: float = 0.0  # seconds of empty chunks since the last one that is not
    _gap: int = 0  # bytes of damage since the last chunk

    def add_chunk(self, start: int, size: int, seconds: float) -> None:
        if not size:
            self.empty += seconds
        else:
            if self.empty:
                self.pauses.append(Pause(start, self.empty, lost=False))
                self.empty = 0.0
            if self._gap:
                self.pauses.append(Pause(start, float(self._gap), lost=True))
                self._gap = 0
            self.starts.append(start)
            self.lags.append(self.pictures - self.clock)
            self.clocks.append(self.clock)
        self.clock += seconds

    def add_picture(self, seconds: float) -> None:
        self.picture = seconds
        self.pictures += seconds
        self.last_picture = len(self.starts)

    def add_damage(self, size: int) -> None:
        self._gap += size


def pauses(data: bytes, number: int) -> list[Pause]:
    """Those of track `number`, in the order of the file."""
    streams: list[_Stream] = []
    sound, whole = _Sound(), 0
    for name, start, size in _chunks(data):
        if name == b"":
            sound.add_damage(size)
        elif name == b"strh" and size >= 48:
            streams.append(_stream(data[start : start + size]))
        elif name == b"strf" and streams and streams[-1].kind == b"auds" and size >= 14:
            streams[-1].block = int.from_bytes(data[start + 12 : start + 14], "little")
        elif name[:2].isdigit() and int(name[:2]) < len(streams):
            stream = streams[int(name[:2])]
            whole += size + 8
            if int(name[:2]) == number and stream.kind == b"auds":
                sound.add_chunk(start, size, stream.seconds(size))
            elif stream.kind == b"vids" and stream is next(one for one in streams if one.kind == b"vids"):
                sound.add_picture(stream.unit)
    rate = sound.clock / whole if whole else 0.0
    found = [pause._replace(seconds=pause.seconds * rate) if pause.lost else pause for pause in sound.pauses]
    return sorted([*found, *_steps(sound)])


def _steps(sound: _Sound) -> Iterator[Pause]:
    """Where the sound falls behind the pictures for good; at the beginning, only if both go on at the same pace."""
    lags = sound.lags[: sound.last_picture + 1] if sound.pictures else []
    smallest = sound.picture + _STEP_SECONDS
    least = [*lags]
    for index in range(len(lags) - 2, -1, -1):
        least[index] = min(least[index], least[index + 1])
    jumps = [index for index in range(1, len(lags)) if lags[index] - lags[index - 1] >= _STEP_SECONDS]
    first_step = next((index for index in jumps if least[index] - lags[index - 1] >= smallest), len(lags))
    rested = least[0] if lags and _keeps_pace(lags[:first_step], sound) else 0.0
    if rested >= smallest:
        yield Pause(sound.starts[0], rested, lost=False)
    for index in jumps:
        # Pictures may be few, and the lag rises by one with each of them: a step is from the least to the least.
        if least[index] - max(lags[index - 1], rested) >= smallest:
            yield Pause(sound.starts[index], least[index] - rested, lost=True)
            rested = least[index]


def _keeps_pace(lags: list[float], sound: _Sound) -> bool:
    """Whether pictures come between the first chunks as they should, so that these were not merely stored late."""
    seconds = sound.clocks[len(lags) - 1] - sound.clocks[0]
    return seconds >= 1.5 * sound.picture and abs(lags[-1] - lags[0]) <= sound.picture + _STEP_SECONDS / 2


def _stream(head: bytes) -> _Stream:
    kind, scale, rate, sample = struct.unpack_from("<4s16xII16xI", head)
    return _Stream(kind, scale / rate if rate else 0.0, sample)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and size of each chunk that is no list, or no name where there is damage."""
    at = 12
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        if name in _LISTS:
            at += 8 + size if data[at + 8 : at + 12] in _PASSED else 12
        elif _NAME.fullmatch(name) and at + 8 + size <= len(data):
            yield name, at + 8, size
            at += 8 + size + size % 2
        elif name[:2].isdigit() and _CHUNK.fullmatch(name) and not _next_chunk(data, at + 8):
            return  # the last one, which is cut
        else:
            found = _next_chunk(data, at)
            yield b"", at, (found or len(data)) - at
            at = found or len(data)


def _next_chunk(data: bytes, start: int) -> int:
    """The next place that looks like a chunk of sound or pictures and is followed by another, 0 if there is none."""
    for found in _CHUNK.finditer(data, start):
        at = found.start()
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        behind = at + 8 + size + size % 2
        if size < _MOST_BYTES and (behind >= len(data) - 8 or _NAME.fullmatch(data[behind : behind + 4])):
            return at
    return 0
