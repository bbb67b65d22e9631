"""Bytes of a known container to mono float32 at a given rate, block by block.

Owns the choice between libsndfile and FFmpeg, the allow-list of codecs, downmixing, resampling and the caps. Runs only
in the media worker process. Memory does not grow with the length of the audio: each block goes to `write` at once.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from app.media.sniff import Container, sniff
from backends.interface import Samples

BLOCK_FRAMES = 65_536
MIN_RATE, MAX_RATE = 1_000, 384_000  # Hz
MAX_CHANNELS = 32
SMALLEST_AUDIO = 512  # bytes; a file below this that says it is empty is empty
MAX_BAD_PACKETS = 200  # of one file; a damaged recording is worth reading, an endless stream of noise is not
_DEMUXERS = "wav,w64,flac,aiff,au,caf,mp3,ogg,aac,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpeg,mpegts,amr"
_CODECS = (
    "aac,aac_latm,mp3,mp3float,mp2,mp2float,mp1,mp1float,opus,libopus,vorbis,libvorbis,flac,alac,ac3,eac3,amrnb,amrwb,"
    "libopencore_amrnb,libopencore_amrwb,adpcm_ms,adpcm_ima_wav,adpcm_ima_qt,pcm_u8,pcm_s8,pcm_s16le,pcm_s16be,"
    "pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_f32le,pcm_f32be,pcm_f64le,pcm_f64be,pcm_mulaw,pcm_alaw"
)
# Neither nested files nor network: the only source is the buffer that we hand over. Video decoders are never opened.
_OPTIONS = {"format_whitelist": _DEMUXERS, "codec_whitelist": _CODECS, "protocol_whitelist": "none"}
# Sample format, packed: how numpy calls it, and the value of full scale.
_FORMATS: dict[str, tuple[str, float]] = {
    "u8": ("u1", 128.0),
    "s16": ("i2", 32_768.0),
    "s32": ("i4", 2_147_483_648.0),
    "s64": ("i8", 9_223_372_036_854_775_808.0),
    "flt": ("f4", 1.0),
    "dbl": ("f8", 1.0),
}

# What PyAV raises on damaged files: FFmpeg's errors, and its own of an unknown codec or a track that is not in its
# list.
_AV_ERRORS = (av.FFmpegError, ValueError, LookupError)

Block = tuple[Samples, int]  # float32 [frames, channels] in -1..1 and its rate in Hz


class Unreadable(Exception):
    """The bytes are not audio we read, or are over a cap. The text is for the client; {formats} stands for the list."""


UNSUPPORTED = "The file is not audio in a supported format. Supported formats: {formats}."
BROKEN = (
    "The audio could not be decoded: the file is damaged or its codec is not supported. Supported formats: {formats}."
)


@dataclass(slots=True)
class Caps:
    """seconds of source audio; decoded_bytes: frames x channels x 4, whatever rate the header claims."""

    seconds: float
    decoded_bytes: int


@dataclass(slots=True)
class Source:
    """What was read: frames by rate in Hz (a rate may change on the way), most channels, container's name."""

    container: str
    frames: dict[int, int] = field(default_factory=dict)
    channels: int = 0
    decoded_bytes: int = 0

    @property
    def seconds(self) -> float:
        """By the source's own clock."""
        return sum(frames / rate for rate, frames in self.frames.items())

    @property
    def rate(self) -> int:
        """The rate of most of it, Hz; 0 if there is nothing."""
        return max(self.frames, key=self.frames.__getitem__, default=0)

    def count(self, frames: int, channels: int, rate: int, caps: Caps) -> None:
        """Add a block, or raise Unreadable if it is over a cap."""
        check_shape(rate, channels)
        self.channels = max(self.channels, channels)
        self.frames[rate] = self.frames.get(rate, 0) + frames
        self.decoded_bytes += frames * channels * 4
        if self.seconds > caps.seconds:
            raise Unreadable(f"The audio is longer than the limit of {caps.seconds:g} seconds.")
        if self.decoded_bytes > caps.decoded_bytes:
            raise Unreadable(f"The audio decodes to more than the limit of {caps.decoded_bytes} bytes.")


def check_shape(rate: int, channels: int) -> None:
    """Raises Unreadable for a rate or a channel count that no recording has."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise Unreadable(f"The audio's sample rate of {rate} Hz is outside {MIN_RATE} to {MAX_RATE} Hz.")
    if not 1 <= channels <= MAX_CHANNELS:
        raise Unreadable(f"The audio has {channels} channels; at most {MAX_CHANNELS} are supported.")


def decode(data: bytes, rate: int, caps: Caps, write: Callable[[Samples], None]) -> Source:
    """Give the mono samples of `data` at `rate` Hz to `write`, piece by piece. Raises Unreadable."""
    container = sniff(memoryview(data))
    if container is None:
        raise Unreadable(UNSUPPORTED)
    source, resampler = Source(container.name), _Resampler(rate, write)
    for block, block_rate in _blocks(data, container, caps):
        source.count(len(block), block.shape[1], block_rate, caps)
        resampler.push(_mono(block), block_rate)
    resampler.flush()
    return source


def _blocks(data: bytes, container: Container, caps: Caps) -> Iterator[Block]:
    """libsndfile where it is at least as fast, FFmpeg for the rest and for what libsndfile cannot open."""
    file = _open_soundfile(data) if container.soundfile_first else None
    if file is None:
        yield from _av_blocks(data, container, caps)
    else:
        yield from _soundfile_blocks(file)


def _open_soundfile(data: bytes) -> soundfile.SoundFile | None:
    """None if libsndfile lacks the codec or does not know the length (a streamed FLAC), which it takes for none at
    all."""
    try:
        file = soundfile.SoundFile(io.BytesIO(data))
    except (soundfile.LibsndfileError, RuntimeError):
        return None
    if file.frames > 0 or len(data) < SMALLEST_AUDIO:
        return file
    file.close()
    return None


def _soundfile_blocks(file: soundfile.SoundFile) -> Iterator[Block]:
    """Everything up to the first damaged place. libsndfile does not tell how much of a damaged block it has read, so
    blocks start as NaN and what it has not written is cut."""
    with file:
        check_shape(file.samplerate, file.channels)  # before the buffer is made
        anything = False
        while True:
            buffer = np.full((BLOCK_FRAMES, file.channels), np.nan, np.float32)
            try:
                block = file.read(out=buffer)
                damaged = False
            except (soundfile.LibsndfileError, RuntimeError):
                block = buffer[: int(np.isnan(buffer[:, 0]).argmax())]
                damaged = True
            if damaged and not (anything or len(block)):
                raise Unreadable(BROKEN)
            if len(block):
                anything = True
                yield block, file.samplerate
            if damaged or not len(block):
                return


def _av_blocks(data: bytes, container: Container, caps: Caps) -> Iterator[Block]:
    try:
        file = av.open(io.BytesIO(data), format=container.demuxer, options=_OPTIONS, metadata_errors="ignore")
    except _AV_ERRORS as error:
        raise Unreadable(BROKEN) from error
    with file:
        yield from _joined(_frames(file, _audio_stream(file, caps)))


def _audio_stream(file: av.container.InputContainer, caps: Caps) -> av.AudioStream:
    """The first audio track, if its codec is on the list and it does not claim to be far too long."""
    if not file.streams.audio:
        raise Unreadable("The file has no audio track.")
    if file.duration is not None and file.duration / av.time_base > 1.1 * caps.seconds:
        raise Unreadable(f"The audio is longer than the limit of {caps.seconds:g} seconds.")
    stream = file.streams.audio[0]
    codec = "unknown" if stream.codec_context is None else stream.codec_context.name
    if codec not in _CODECS.split(","):
        raise Unreadable(f"The audio codec ({codec}) is not supported. Supported formats: {{formats}}.")
    stream.codec_context.thread_count = 1
    return stream


def _frames(file: av.container.InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    """Decoded frames, stepping over damaged packets. Raises Unreadable if there was nothing else."""
    bad, anything = 0, False
    try:
        for packet in file.demux(stream):
            try:
                frames = packet.decode()
            except _AV_ERRORS:
                bad += 1
                if bad > MAX_BAD_PACKETS:
                    break
                continue
            anything = anything or bool(frames)
            yield from frames
    except _AV_ERRORS as error:
        if not anything:
            raise Unreadable(BROKEN) from error
    if bad and not anything:
        raise Unreadable(BROKEN)


def _joined(frames: Iterator[av.AudioFrame]) -> Iterator[Block]:
    """Codec frames last some 20 ms each; they are converted in larger pieces. The format may change on the way."""
    pieces: list[NDArray[Any]] = []
    kind, count = ("", 0, 0), 0
    for frame in frames:
        of_frame = (frame.format.name, frame.layout.nb_channels, frame.sample_rate)
        if pieces and (of_frame != kind or count >= BLOCK_FRAMES // 4):
            yield _samples(pieces, *kind[:2]), kind[2]
            pieces, count = [], 0
        kind = of_frame
        pieces.append(_values(frame))
        count += frame.samples
    if pieces:
        yield _samples(pieces, *kind[:2]), kind[2]


def _values(frame: av.AudioFrame) -> NDArray[Any]:
    """A frame's values as they are: planar [channels, time], packed [1, all].

    PyAV's own conversion takes FFmpeg's list of planes to end with a null, which a list of eight channels does not: it
    reads whatever lies behind and crashes.
    """
    name, channels = frame.format.name, frame.layout.nb_channels
    planes, count = (channels, frame.samples) if name.endswith("p") else (1, frame.samples * channels)
    dtype = _FORMATS[name.removesuffix("p")][0]
    return np.stack([np.frombuffer(plane, dtype, count) for plane in frame.planes[:planes]])


def _samples(pieces: list[NDArray[Any]], kind: str, channels: int) -> Samples:
    """Pieces of one sample format as float32 [frames, channels]. Planar pieces are [channels, time], others [1,
    all]."""
    block = np.concatenate(pieces, axis=1)
    block = block.T if kind.endswith("p") else block.reshape(-1, channels)
    scale = _FORMATS[kind.removesuffix("p")][1]
    if block.dtype == np.uint8:
        block = block.astype(np.float32) - np.float32(128.0)
    scaled: Samples = block.astype(np.float32, copy=False)
    return scaled if scale == 1.0 else scaled * np.float32(1.0 / scale)


def _mono(block: Samples) -> Samples:
    """The mean of the channels; what is not a number becomes silence."""
    channels = block.shape[1]
    mono = block[:, 0] if channels == 1 else block @ np.full(channels, 1.0 / channels, np.float32)
    return mono if np.isfinite(mono).all() else np.nan_to_num(mono, nan=0.0, posinf=0.0, neginf=0.0)


class _Resampler:
    """Collects pieces into blocks and resamples them as one stream; a change of the source's rate starts a new
    stream."""

    def __init__(self, rate: int, write: Callable[[Samples], None]) -> None:
        self._rate, self._write = rate, write
        self._source_rate = 0
        self._stream: soxr.ResampleStream | None = None
        self._pending: list[Samples] = []
        self._frames = 0

    def push(self, mono: Samples, source_rate: int) -> None:
        if source_rate != self._source_rate:
            self.flush()
            self._source_rate = source_rate
            self._stream = None
            if source_rate != self._rate:
                self._stream = soxr.ResampleStream(source_rate, self._rate, 1, dtype="float32", quality="HQ")
        self._pending.append(mono)
        self._frames += len(mono)
        if self._frames >= BLOCK_FRAMES:
            self._emit(last=False)

    def flush(self) -> None:
        """The end of the source: what the filter still holds comes out."""
        if self._source_rate:
            self._emit(last=True)

    def _emit(self, *, last: bool) -> None:
        block = np.concatenate(self._pending) if self._pending else np.zeros(0, np.float32)
        self._pending, self._frames = [], 0
        if self._stream is not None:
            block = self._stream.resample_chunk(np.ascontiguousarray(block), last=last)
        if len(block):
            self._write(np.clip(block, -1.0, 1.0))
