"""Small recordings made with the standard library only."""

from __future__ import annotations

import io
import wave

import numpy as np


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
