"""Levels and gains: what is raised, by how much, and what is left as it is."""

from __future__ import annotations

import numpy as np
import pytest

from backends.audio.vad import FRAME
from backends.whisper.loudness import AHEAD, QuickGain, SlowGain, frame_absmax, gain_beside, level, raised

SECOND = 31  # frames, about
AHEAD_FRAMES = AHEAD // FRAME


def _gains(absmax: np.ndarray, piece: int) -> np.ndarray:
    """Of all frames, given piece by piece."""
    quick = QuickGain()
    parts = [absmax[first : first + piece + AHEAD_FRAMES] for first in range(0, len(absmax), piece)]
    return np.concatenate([quick.of(part[:piece], part[piece:]) for part in parts])


def test_one_loud_frame_is_a_click_and_not_a_level() -> None:
    absmax = np.full(200, 0.01, np.float32)
    absmax[7] = 0.9
    assert level(absmax) == pytest.approx(0.01)
    assert level(absmax[:1]) == pytest.approx(0.01)


def test_quiet_seconds_after_loud_ones_are_raised_and_short_pauses_are_not() -> None:
    loud, quiet, pause = (np.full(round(n * SECOND), v, np.float32) for n, v in ((5, 0.3), (5, 0.005), (1, 0.005)))
    gains = _gains(np.concatenate([loud, quiet, loud, pause, loud]), 10_000)
    assert gains[: len(loud) - 1].max() == 1.0  # one frame may be a click
    assert gains[len(loud) : len(loud) + len(quiet)] == pytest.approx(10.0)
    assert gains[len(loud) + len(quiet) + 1 :].max() == 1.0


def test_the_gain_of_a_frame_is_the_same_however_the_recording_is_cut() -> None:
    absmax = np.random.default_rng(0).choice(np.float32([0.2, 0.004, 0.004, 0.004]), 40).repeat(40)
    assert np.array_equal(_gains(absmax, 10_000), _gains(absmax, 100))


def test_the_gain_has_a_bound_and_silence_none() -> None:
    assert QuickGain().of(np.full(100, 1e-6, np.float32), np.zeros(0, np.float32)).max() == 100.0
    assert SlowGain().of(np.zeros(100, np.float32)) == 1.0


def test_raised_samples_stay_within_bounds_and_others_are_the_very_same() -> None:
    samples = np.linspace(-0.5, 0.5, 2 * FRAME + 10, dtype=np.float32)
    assert raised(samples, 1.0) is samples
    louder = raised(samples, np.float32([1, 2, 4]))
    assert np.array_equal(louder[:FRAME], samples[:FRAME])
    assert np.array_equal(louder[FRAME : 2 * FRAME], samples[FRAME : 2 * FRAME] * 2)
    assert louder.max() == 1.0
    assert len(frame_absmax(samples)) == 3
    assert len(frame_absmax(samples[:0])) == 0


def test_beside_a_louder_speaker_only_the_far_quieter_is_raised() -> None:
    assert gain_beside(0.1, 0.3) == 1.0
    assert gain_beside(0.003, 0.3) == pytest.approx(50.0)
    assert gain_beside(1e-6, 0.3) == 100.0
    assert gain_beside(0.0, 0.3) == 1.0
