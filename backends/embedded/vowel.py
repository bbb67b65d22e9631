"""A synthetic vowel: half a second of sound that a voice detector takes for speech, for warm-up and health checks.

Source and filter in their simplest form: a ring of damped formants at every glottal pulse of a falling pitch.
"""

from __future__ import annotations

import numpy as np

from backends.interface import ASR_SAMPLE_RATE, Samples

_FORMANTS = ((300.0, 60.0, 1.0), (2300.0, 100.0, 0.6), (3000.0, 120.0, 0.3))  # Hz, bandwidth Hz, gain: "ee"
_PITCH_FROM, _PITCH_TO = 130.0, 100.0  # Hz
_SPOKEN, _SILENCE, _RING = 0.6, 0.2, 0.05  # seconds
_PEAK = 0.4


def vowel() -> Samples:
    """One second, float32 [time] at 16 kHz, always the same."""
    times = np.arange(int(_RING * ASR_SAMPLE_RATE)) / ASR_SAMPLE_RATE
    ring = sum(gain * np.exp(-np.pi * width * times) * np.sin(2 * np.pi * f * times) for f, width, gain in _FORMANTS)
    count = int(_SPOKEN * ASR_SAMPLE_RATE)
    sound = np.zeros(count + len(times))
    position = 0.0
    while position < count:
        begin, share = int(position), position / count
        sound[begin : begin + len(times)] += ring * np.sqrt(np.sin(np.pi * share))
        position += ASR_SAMPLE_RATE / (_PITCH_FROM + (_PITCH_TO - _PITCH_FROM) * share)
    silence = np.zeros(int(_SILENCE * ASR_SAMPLE_RATE))
    return np.concatenate([silence, sound * (_PEAK / np.abs(sound).max()), silence]).astype(np.float32)
