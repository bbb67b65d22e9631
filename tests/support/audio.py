"""Audio files for tests: those of real encoders (scripts/fixtures/audio_files.py), damaged ones, and a plain tone."""

from __future__ import annotations

import io
import wave

import numpy as np

from scripts.fixtures.audio_files import by_av, by_soundfile, silent_film, tone

__all__ = ["by_av", "by_soundfile", "patched_flac", "patched_wav_sizes", "silent_film", "tone", "wav_of"]


def wav_of(seconds: float) -> bytes:
    """A tone as 16 kHz mono WAV."""
    tone = np.sin(np.arange(round(16_000 * seconds)) / 20) * 8000
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(tone.astype("<i2").tobytes())
    return buffer.getvalue()


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
