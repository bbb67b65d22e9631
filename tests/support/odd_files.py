"""Audio files as the field has them: late tracks, holes, headers that lie, files joined."""

from __future__ import annotations

import io
import struct
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

from tests.support.audio import tone

LOW, HIGH = 440.0, 1_320.0  # Hz of the first and of the second half


def two_tones(rate: int, seconds: float = 1.0) -> NDArray[np.float32]:
    """float32 [frames, 1]: `seconds` of a low tone, then as long of a high one."""
    return np.concatenate([tone(rate, seconds, hertz=hertz) for hertz in (LOW, HIGH)])


def spans(samples: NDArray[np.float32], rate: int = 16_000) -> list[tuple[float, float]]:
    """Seconds from and to of everything that sounds, silences below 0.1 s ignored."""
    frame = rate // 100
    loud = np.abs(samples[: len(samples) // frame * frame]).reshape(-1, frame).max(axis=1) > 0.1
    found: list[tuple[float, float]] = []
    for at in np.flatnonzero(loud) / 100:
        if found and at - found[-1][1] < 0.1:
            found[-1] = (found[-1][0], float(at) + 0.01)
        else:
            found.append((float(at), float(at) + 0.01))
    return found


def hertz_at(samples: NDArray[np.float32], seconds: float, rate: int = 16_000) -> float:
    """The loudest frequency of the half second around `seconds`."""
    middle = round(seconds * rate)
    piece = samples[max(0, middle - rate // 4) : middle + rate // 4]
    return float(np.abs(np.fft.rfft(piece)).argmax() * rate / len(piece))


def film(
    samples: NDArray[np.float32],
    container: str,
    codec: str,
    *,
    rate: int = 48_000,
    delay: float = 0.0,
    hole: tuple[float, float] | None = None,
    pictures: int = 0,
    silent_first_track: bool = False,
) -> bytes:
    """samples: [frames, 1], `delay` seconds after the beginning; packets inside `hole` are left out; pictures: one a
    second. The silent first track is not the default one."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        picture = file.add_stream("mpeg4", rate=1) if pictures else None
        if picture is not None:
            picture.width, picture.height, picture.pix_fmt = 16, 16, "yuv420p"
        tracks = [file.add_stream(codec, rate=rate) for _ in range(2 if silent_first_track else 1)]
        for track in tracks:
            track.layout, track.bit_rate = "mono", 64_000
        if silent_first_track:
            tracks[0].disposition = av.stream.Disposition(0)
            tracks[1].disposition = av.stream.Disposition.default
        if picture is not None:
            _draw(file, picture, pictures)
        for track in tracks:
            what = samples if track is tracks[-1] else np.zeros_like(samples)
            for packet in _packets(track, what, rate, delay):
                at = float((packet.pts or 0) * packet.time_base)
                if hole is None or not hole[0] <= at - delay < hole[1]:
                    file.mux(packet)
    return buffer.getvalue()


def _packets(track: av.AudioStream, samples: NDArray[np.float32], rate: int, delay: float) -> list[av.Packet]:
    context = track.codec_context
    if not context.is_open:
        context.open()
    cut = av.AudioResampler(context.format.name, "mono", rate, frame_size=context.frame_size or 960)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="flt", layout="mono")
    frame.sample_rate, frame.pts = rate, round(delay * rate)
    return [packet for piece in [*cut.resample(frame), *cut.resample(None), None] for packet in track.encode(piece)]


def _draw(file: av.container.OutputContainer, track: av.VideoStream, seconds: int) -> None:
    for second in range(seconds):
        frame = av.VideoFrame.from_ndarray(np.zeros((24, 16), np.uint8), format="yuv420p")
        frame.pts, frame.time_base = second, Fraction(1, 1)
        file.mux(track.encode(frame))
    file.mux(track.encode(None))


def pcm(samples: NDArray[np.float32]) -> bytes:
    """16 bit, little-endian."""
    return np.rint(np.clip(samples, -1, 1) * 32_767).astype("<i2").tobytes()


def chunk(name: bytes, data: bytes, size: int | None = None, *, pad: bool = True) -> bytes:
    """A chunk of RIFF, with its own size or a wrong one."""
    head = name + struct.pack("<I", len(data) if size is None else size)
    return head + data + (b"\0" if pad and len(data) % 2 else b"")


def form(rate: int, tag: int = 1, channels: int = 1, extra: bytes = b"") -> bytes:
    """A fmt chunk of 16 bit."""
    width = 2 * channels
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, rate * width, width, 16) + extra)


def riff(*chunks: bytes, magic: bytes = b"RIFF", size: int | None = None) -> bytes:
    """A wav file of these chunks."""
    body = b"WAVE" + b"".join(chunks)
    return magic + struct.pack("<I", len(body) if size is None else size) + body
