"""The chain behind `audio.encode`, in plain synchronous calls: resample, change tempo, quantise, encode, pack.

Owns soxr and PyAV on the encoding side, which only ever see samples that we made ourselves. Knows no event loop.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from app.writers.formats import OUTPUT_RATE
from backends.audio.tempo import TempoFilter, audio_frame
from backends.interface import Samples

SAMPLE_BYTES = 2  # 16 bit
UNKNOWN_SIZE = 0xFFFFFFFF  # of a RIFF chunk whose end is the end of the stream

Pcm = NDArray[np.int16]


class Encoder:
    """Float samples in, bytes of one format out."""

    def __init__(self, format: str, *, streaming: bool, speed: float = 1.0) -> None:  # noqa: A002
        self._resampler: soxr.ResampleStream | None = None
        self._rate = 0
        self._tempo = TempoFilter(speed, OUTPUT_RATE) if speed != 1.0 else None
        self._container = _make_container(format, streaming)

    def push(self, samples: Samples, rate: int) -> bytes:
        """samples: float32 [time] at `rate` Hz, the same rate in every call. What is ready of the output."""
        if self._rate == 0:
            self._rate = rate
            if rate != OUTPUT_RATE:
                self._resampler = soxr.ResampleStream(rate, OUTPUT_RATE, 1, dtype="float32", quality="HQ")
        samples = np.ascontiguousarray(samples, np.float32)
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples)
        if self._tempo is not None:
            samples = self._tempo.push(samples)
        return self._container.push(quantise(samples))

    def finish(self) -> bytes:
        """The rest of the output: what resampler, tempo filter and codec still hold, and the container's end."""
        tail = np.zeros(0, np.float32)
        if self._resampler is not None:
            tail = self._resampler.resample_chunk(tail, last=True)
        if self._tempo is not None:
            tail = np.concatenate([self._tempo.push(tail), self._tempo.finish()])
        return self._container.push(quantise(tail)) + self._container.finish()

    def close(self) -> None:
        """Free the codec; also in the middle of a file."""
        self._container.close()


def quantise(samples: Samples) -> Pcm:
    """16-bit samples; beyond full scale is clipped, what is not a number is silence."""
    scaled: Pcm = np.rint(np.clip(np.nan_to_num(samples, nan=0.0), -1.0, 1.0) * 32_767.0).astype(np.int16)
    return scaled


class RawContainer:
    """Nothing but samples, little-endian."""

    def push(self, pcm: Pcm) -> bytes:
        return pcm.astype("<i2", copy=False).tobytes()

    def finish(self) -> bytes:
        return b""

    def close(self) -> None:
        """Holds nothing."""


@dataclass(slots=True)
class WavContainer:
    """RIFF WAVE. Streamed: both sizes are open, as the real service sends them; else the true ones."""

    streaming: bool
    _held: list[bytes] = field(default_factory=list)
    _begun: bool = False

    def push(self, pcm: Pcm) -> bytes:
        data = pcm.astype("<i2", copy=False).tobytes()
        if not self.streaming:
            self._held.append(data)
            return b""
        if self._begun or not data:
            return data
        self._begun = True
        return wav_header(None) + data

    def finish(self) -> bytes:
        if self.streaming:
            return b"" if self._begun else wav_header(None)
        data = b"".join(self._held)
        return wav_header(len(data)) + data

    def close(self) -> None:
        self._held = []


def wav_header(data_bytes: int | None) -> bytes:
    """The 44 bytes before the samples; None: the length is not known yet."""
    riff_size = UNKNOWN_SIZE if data_bytes is None else 36 + data_bytes
    data_size = UNKNOWN_SIZE if data_bytes is None else data_bytes
    numbers = ((16, 4), (1, 2), (1, 2), (OUTPUT_RATE, 4), (OUTPUT_RATE * SAMPLE_BYTES, 4), (SAMPLE_BYTES, 2), (16, 2))
    layout = b"".join(value.to_bytes(size, "little") for value, size in numbers)
    return b"RIFF" + riff_size.to_bytes(4, "little") + b"WAVEfmt " + layout + b"data" + data_size.to_bytes(4, "little")


@dataclass(frozen=True, slots=True)
class _Codec:
    """How FFmpeg makes a format. streamed: muxer options for an output that cannot seek."""

    muxer: str
    encoder: str
    bit_rate: int | None
    streamed: dict[str, str] = field(default_factory=dict)


_CODECS = {
    # No Xing frame: it would claim a length that is not known yet.
    "mp3": _Codec("mp3", "libmp3lame", 128_000, {"write_xing": "0", "id3v2_version": "0"}),
    "opus": _Codec("ogg", "libopus", 64_000, {"page_duration": "100000"}),  # 100 ms per page: the first comes soon
    "aac": _Codec("adts", "aac", 96_000),
    "flac": _Codec("flac", "flac", None),
}


class AvContainer:
    """A compressed format through FFmpeg, into memory."""

    def __init__(self, codec: _Codec, streaming: bool) -> None:
        self._streaming = streaming
        self._sink: Any = _Pipe() if streaming else io.BytesIO()
        options = {"flush_packets": "1", **codec.streamed} if streaming else {}
        self._file = av.open(self._sink, "w", format=codec.muxer, container_options=options)
        self._stream = self._file.add_stream(codec.encoder, rate=OUTPUT_RATE)
        self._stream.layout = "mono"
        if codec.bit_rate is not None:
            self._stream.bit_rate = codec.bit_rate
        self._stream.codec_context.open()
        context = self._stream.codec_context
        self._cut = av.AudioResampler(context.format.name, "mono", OUTPUT_RATE, frame_size=context.frame_size or 0)
        self._given = 0

    def push(self, pcm: Pcm) -> bytes:
        if len(pcm):
            self._mux(self._cut.resample(audio_frame(pcm[None], "s16", OUTPUT_RATE, self._given)))
            self._given += len(pcm)
        return self._take()

    def finish(self) -> bytes:
        if self._given:
            self._mux(self._cut.resample(None))
        self._file.mux(self._stream.encode(None))
        self._file.close()
        return self._take() if self._streaming else bytes(self._sink.getvalue())

    def close(self) -> None:
        self._file.close()

    def _mux(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            self._file.mux(self._stream.encode(frame))

    def _take(self) -> bytes:
        return self._sink.take() if self._streaming else b""


class _Pipe:
    """An output that cannot seek; PyAV sees that from the missing method."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces = []
        return data


def _make_container(format: str, streaming: bool) -> RawContainer | WavContainer | AvContainer:  # noqa: A002
    if format == "pcm":
        return RawContainer()
    if format == "wav":
        return WavContainer(streaming)
    return AvContainer(_CODECS[format], streaming)
