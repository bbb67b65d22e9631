"""The frames of one track, over what is damaged in it.

Owns what counts as damage of a packet, and how much sound that was. Knows neither containers' heads nor clocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import av

from app.media.avi import Pause
from app.media.flac import block_sizes, first_sample, is_odd
from app.media.parts import Part
from app.media.sniff import FLAC, tag_length
from app.media.source import Broken, Damage

# What PyAV raises on damaged files: FFmpeg's errors, and its own of an unknown codec or a track that is not in its
# list.
AV_ERRORS = (av.FFmpegError, ValueError, LookupError)
_BAD_PACKETS = 1000  # in a row, or so many and nine of ten: an endless stream of noise is not worth reading
_ONE_PACKET = 2  # times the usual size: a damaged packet that is larger may be what is left of several
_RATE_SECONDS = 0.5  # of sound that tell how many bytes a second takes


class Read(NamedTuple):
    """lost: seconds of sound that are missing before a frame, where only its packets tell; pause: seconds of silence
    that belong there, wherever they come from."""

    frame: av.AudioFrame
    lost: float = 0.0
    pause: float = 0.0


class Track:
    """One track of `part`. decoder: instead of its own, or None; pauses: in the order of the file."""

    def __init__(
        self,
        part: Part,
        stream: av.AudioStream,
        damage: Damage,
        decoder: av.AudioCodecContext | None = None,
        pauses: Iterable[Pause] = (),
    ) -> None:
        self._part, self._stream, self._damage, self._decoder = part, stream, damage, decoder
        self._by_bytes = part.container.time == "bytes"
        self._good = self._bad = self._row = 0
        self._pauses = deque(pauses)
        self._lost = self._pause = 0.0  # seconds since the last frame
        self._end: int | None = None  # where the last packet with sound ended, byte
        self._packets, self._bytes, self._seconds = 0, 0, 0.0  # that gave sound
        self._begun, self._ended = 0, 0
        flac = part.container is FLAC and not is_odd(part.data)
        self._block = block_sizes(stream.codec_context.extradata or b"")[0] if flac else 0
        if stream.codec_context.name == "flac":  # or what is damaged is played as noise
            stream.codec_context.options = {"err_detect": "crccheck+explode"}

    def frames(self, packets: Iterator[av.Packet]) -> Iterator[Read]:
        """Decoded frames, with what is missing before each. Raises Broken if there was nothing but damage."""
        anything = False
        try:
            for packet in packets:
                decoded = self._decoded(packet)
                if decoded is None and self._is_hopeless():
                    self._damage.ended = True
                    break
                for frame in decoded or ():
                    anything = True
                    yield Read(frame, self._lost, self._pause)
                    self._lost = self._pause = 0.0
        except AV_ERRORS as error:
            if not anything:
                raise Broken from error
            self._damage.ended = True
        if self._bad and not anything:
            raise Broken
        self._state_length()

    def _decoded(self, packet: av.Packet) -> list[av.AudioFrame] | None:
        """None for a damaged packet."""
        self._time(packet)
        try:
            frames: list[av.AudioFrame] = packet.decode() if self._decoder is None else self._decoder.decode(packet)
        except AV_ERRORS:
            if self._by_bytes and _is_tag(bytes(packet)):
                self._end = None if packet.pos is None else packet.pos + packet.size
                return []
            self._bad, self._row = self._bad + 1, self._row + 1
            self._damage.packets += 1
            if self._by_bytes:
                self._count(packet, 0.0)
            elif packet.duration and packet.time_base:
                self._lost += float(packet.duration * packet.time_base)
            return None
        self._good, self._row = self._good + 1, 0
        self._damage.packets += packet.is_corrupt
        if self._by_bytes and frames:
            seconds = 0.0
            for frame in frames:  # not sum(): packets are many and hold one frame, for which a generator is dear
                seconds += frame.samples / frame.sample_rate
            self._count(packet, seconds)
        return frames

    def _time(self, packet: av.Packet) -> None:
        while self._pauses and packet.pos is not None and packet.pos >= self._pauses[0].before:
            pause = self._pauses.popleft()
            self._pause += pause.seconds
            self._damage.silent += pause.seconds if pause.lost else 0.0
        if self._block and packet.size:  # FFmpeg's parser gives no time to what comes next after damage
            first = first_sample(bytes(packet), self._block)
            if first is not None and packet.time_base:
                packet.pts = round(first / (self._stream.rate * packet.time_base))
        if packet.pts is not None:
            self._begun = self._begun if self._ended else packet.pts
            self._ended = packet.pts + (packet.duration or 0)

    def _count(self, packet: av.Packet, seconds: float) -> None:
        """Take a packet that gave so many seconds, 0 for a damaged one. The bytes between it and the one before were
        sound, but for tags of joined files."""
        if packet.pos is None or not packet.size:
            return
        if self._end is not None and packet.pos > self._end:
            between = memoryview(self._part.data)[self._end : packet.pos]
            self._lost += self._seconds_of(max(0, len(between) - tag_length(between)))
        self._end = packet.pos + packet.size
        if seconds:
            self._bytes, self._seconds, self._packets = (
                self._bytes + packet.size,
                self._seconds + seconds,
                self._packets + 1,
            )
        elif self._packets and packet.size < _ONE_PACKET * self._bytes / self._packets:
            self._lost += self._seconds / self._packets
        else:
            sound = memoryview(self._part.data)[packet.pos : self._end]
            self._lost += self._seconds_of(max(0, packet.size - tag_length(sound)))

    def _seconds_of(self, lost: int) -> float:
        """How long so many bytes last, as those so far do; 0 as long as those are few."""
        return lost * self._seconds / self._bytes if self._seconds > _RATE_SECONDS else 0.0

    def _is_hopeless(self) -> bool:
        return self._row >= _BAD_PACKETS or (self._bad >= _BAD_PACKETS and self._bad > 9 * self._good)

    def _state_length(self) -> None:
        """Where nothing but its packets says how long a file lasts, a decoder may give nothing for some of them."""
        counted = self._part.container.time in {"counted", "bytes"} and not self._part.container.soundfile_first
        if counted and self._stream.time_base:
            seconds = float((self._ended - self._begun) * self._stream.time_base)
            self._damage.stated = max(self._damage.stated, seconds)


def _is_tag(packet: bytes) -> bool:
    """Whether it is the tag of a file that is joined, with or without the frame that counts that file's frames."""
    rest = packet[tag_length(memoryview(packet)) :]
    return len(rest) < len(packet) and (not rest or b"Xing" in rest[:64] or b"Info" in rest[:64])
