"""The pitch-keeping stretch."""

from __future__ import annotations

import numpy as np
import pytest

from backends.embedded.stretch import stretch

RATE = 22_050


def _tone(hertz: float, seconds: float) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(RATE * seconds)) / RATE)).astype(np.float32)


def _strongest_hertz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * RATE / len(samples))


@pytest.mark.parametrize("factor", [0.7, 0.8, 1.3, 2.0, 2.4])
def test_length_changes_and_pitch_does_not(factor: float) -> None:
    tone = _tone(200.0, 1.5)
    changed = stretch(tone, RATE, factor)
    assert len(changed) == pytest.approx(len(tone) * factor, abs=2)
    assert _strongest_hertz(changed) == pytest.approx(200.0, abs=3)
    inner = changed[RATE // 5 : -RATE // 5]
    assert np.sqrt(np.mean(inner**2)) == pytest.approx(np.sqrt(np.mean(tone**2)), rel=0.1)


def test_no_change_and_short_clips_come_back_as_they_are() -> None:
    tone = _tone(200.0, 0.5)
    assert stretch(tone, RATE, 1.0) is tone
    assert stretch(tone[:300], RATE, 2.0) is not None
    assert len(stretch(tone[:300], RATE, 2.0)) == 300
