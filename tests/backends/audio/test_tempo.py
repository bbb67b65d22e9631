"""Another tempo at the same pitch."""

from __future__ import annotations

import numpy as np
import pytest

from backends.audio.tempo import TempoFilter, change_tempo

RATE = 22_050


def _tone(hertz: float, seconds: float) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(RATE * seconds)) / RATE)).astype(np.float32)


def _strongest_hertz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * RATE / len(samples))


@pytest.mark.parametrize("speed", [0.2, 0.42, 0.5, 0.77, 1.25, 1.43, 3.0, 9.0])
def test_length_changes_and_pitch_does_not(speed: float) -> None:
    tone = _tone(200.0, 6.0)
    changed = change_tempo(tone, RATE, speed)
    assert len(changed) == round(len(tone) / speed)
    assert _strongest_hertz(changed) == pytest.approx(200.0, abs=3)
    inner = changed[RATE // 10 : -RATE // 10]
    assert np.sqrt(np.mean(inner**2)) == pytest.approx(np.sqrt(np.mean(tone**2)), rel=0.1)


def test_no_change_and_nothing_come_back_as_they_are() -> None:
    tone = _tone(200.0, 0.5)
    assert change_tempo(tone, RATE, 1.0) is tone
    assert len(change_tempo(tone[:0], RATE, 2.0)) == 0


@pytest.mark.parametrize("length", [1, 300, 2000])
@pytest.mark.parametrize("speed", [0.4, 2.5])
def test_short_clips_get_their_exact_length(length: int, speed: float) -> None:
    assert len(change_tempo(_tone(200.0, 0.5)[:length], RATE, speed)) == round(length / speed)


def test_a_stream_is_as_long_as_the_whole() -> None:
    tone, tempo = _tone(200.0, 1.0), TempoFilter(1.5, RATE)
    parts = [tempo.push(part) for part in np.array_split(tone, 7)]
    assert sum(map(len, parts)) + len(tempo.finish()) == round(len(tone) / 1.5)
