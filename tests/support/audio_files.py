"""Real audio files for tests, made in memory by real encoders."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import soundfile
from numpy.typing import NDArray


def tone(rate: int, seconds: float, channels: int = 1, hertz: float = 440.0) -> NDArray[np.float32]:
    """float32 [frames, channels]: a sine at half scale with a little noise, so that no codec finds it trivial."""
    time = np.arange(round(rate * seconds)) / rate
    noise = np.random.default_rng(0).standard_normal((len(time), channels)) * 0.02
    return (0.5 * np.sin(2 * np.pi * hertz * time)[:, None] + noise).astype(np.float32)


def by_soundfile(samples: NDArray[np.float32], rate: int, container: str, codec: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=container, subtype=codec)
    return buffer.getvalue()


def by_av(
    samples: NDArray[np.float32], rate: int, container: str, codec: str, *, video: bool = False, **options: Any
) -> bytes:
    """samples: [frames, 1, 2, 6 or 8]; with video=True a small picture track comes first."""
    layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}[samples.shape[1]]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        picture = _picture_track(file) if video else None
        stream = file.add_stream(codec, rate=rate, options={key: str(value) for key, value in options.items()})
        stream.layout = layout
        if picture is not None:
            _draw(file, picture)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples).reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate = rate
        context = stream.codec_context
        cut = av.AudioResampler(
            format=context.format.name, layout=layout, rate=rate, frame_size=context.frame_size or 0
        )
        for piece in [*cut.resample(frame), *cut.resample(None), None]:
            file.mux(stream.encode(piece))
    return buffer.getvalue()


def silent_film() -> bytes:
    """An MP4 with a picture track only."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        _draw(file, _picture_track(file))
    return buffer.getvalue()


def _picture_track(file: av.container.OutputContainer) -> av.VideoStream:
    track = file.add_stream("mpeg4", rate=25)
    track.width = track.height = 64
    track.pix_fmt = "yuv420p"
    return track


def _draw(file: av.container.OutputContainer, track: av.VideoStream) -> None:
    for number in range(5):
        frame = av.VideoFrame.from_ndarray(np.zeros((96, 64), np.uint8), format="yuv420p")
        frame.pts = number
        file.mux(track.encode(frame))
    file.mux(track.encode(None))


def patched_wav_sizes(data: bytes, riff: int, payload: int) -> bytes:
    """`data` with other sizes in its RIFF and data chunks."""
    patched = bytearray(data)
    at = patched.index(b"data")
    patched[4:8] = riff.to_bytes(4, "little")
    patched[at + 4 : at + 8] = payload.to_bytes(4, "little")
    return bytes(patched)


def patched_flac(data: bytes, *, rate: int | None = None, frames: int | None = None) -> bytes:
    """`data` with another rate or frame count in its STREAMINFO (RFC 9639 section 8.2)."""
    patched = bytearray(data)
    field = int.from_bytes(patched[18:26], "big")
    if rate is not None:
        field = (field & ((1 << 44) - 1)) | rate << 44
    if frames is not None:
        field = field >> 36 << 36 | frames
    patched[18:26] = field.to_bytes(8, "big")
    return bytes(patched)
