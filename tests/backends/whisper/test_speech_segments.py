"""The speech gate at all levels, with the real detector: quiet speech passes, noise does not, whatever is raised for
it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from backends.audio.vad import SpeechDetector, VadState
from backends.whisper.speech_segments import VadOptions, find_speech
from tests.backends.whisper.spoken import RATE, record

Samples = NDArray[np.float32]
DETECTOR = SpeechDetector()
SPEECH = record(3, seed=5).samples
SPEECH /= np.abs(SPEECH).max()


def speech_frames(samples: Samples) -> NDArray[np.bool_]:
    """Which samples lie in a stretch."""
    mask = np.zeros(len(samples), bool)
    for speech_segment in find_speech(samples.astype(np.float32), DETECTOR, VadOptions(), 30.0):
        mask[speech_segment.start : speech_segment.end] = True
    return mask


def noise(decibels: float, seconds: float, seed: int = 0) -> Samples:
    """White, decibels: its root mean square."""
    return (10 ** (decibels / 20) * np.random.default_rng(seed).standard_normal(int(seconds * RATE))).astype(np.float32)


@pytest.mark.parametrize("floor", [None, -80.0])
@pytest.mark.parametrize("peak", [0.5, 0.01, 0.002, 0.001])
def test_speech_is_found_however_quiet_it_is(peak: float, floor: float | None) -> None:
    quiet = SPEECH * peak + (0 if floor is None else noise(floor, len(SPEECH) / RATE)[: len(SPEECH)])
    wanted = speech_frames(SPEECH)
    assert (speech_frames(quiet) & wanted).sum() > 0.97 * wanted.sum()


def test_a_click_does_not_hide_quiet_speech() -> None:
    quiet = SPEECH * 0.002
    quiet[100:300] += noise(-20, 200 / RATE)
    wanted = speech_frames(SPEECH)
    assert (speech_frames(quiet) & wanted).sum() > 0.8 * wanted.sum()


def test_quiet_speech_is_found_a_while_after_loud_speech() -> None:
    loud, quiet = np.resize(SPEECH, 20 * RATE), np.resize(SPEECH * 0.001, 200 * RATE)
    assert speech_frames(np.concatenate([loud, quiet]))[-60 * RATE :].mean() > 0.5


@pytest.mark.parametrize("decibels", [-30, -50, -60, -70, -80, -90])
def test_noise_alone_is_not_speech_at_any_level(decibels: int) -> None:
    seconds = np.arange(40 * RATE) / RATE
    buzz = sum(np.sin(2 * np.pi * 50 * k * seconds) / k for k in (1, 2, 3, 5)) * 10 ** (decibels / 20)
    clicks = np.where(np.random.default_rng(1).random(len(seconds)) < 2 / RATE, 30.0, 0.0) * 10 ** (decibels / 20)
    for samples in (noise(decibels, 40), buzz, np.clip(clicks, 0, 1)):
        assert not speech_frames(samples).any()
        assert not speech_frames(dithered(samples)).any()


def test_silence_is_not_speech() -> None:
    assert not speech_frames(np.zeros(25 * RATE)).any()
    assert not speech_frames(dithered(np.zeros(25 * RATE))).any()


def dithered(samples: Samples) -> Samples:
    """As a recorder of 16 bit writes it, with triangular dither of one step."""
    chance = np.random.default_rng(2)
    steps = samples * 32_768 + chance.random(len(samples)) - chance.random(len(samples))
    return np.clip(np.round(steps) / 32_768, -1, 1).astype(np.float32)


def test_at_ordinary_levels_the_detector_gets_the_recording_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of a minute included, whose level is far below; only a second hearing raises them."""
    pieces: dict[VadState, list[Samples]] = {}
    original = VadState.probabilities

    def probabilities(self: VadState, samples: Samples) -> Samples:
        pieces.setdefault(self, []).append(samples)
        return original(self, samples)

    monkeypatch.setattr(VadState, "probabilities", probabilities)
    speech = np.resize(SPEECH * 0.5, 20 * RATE)
    samples = np.concatenate([speech, noise(-80, 70), speech])
    found = speech_frames(samples)
    assert found[: 20 * RATE].any()
    assert not found[22 * RATE : 88 * RATE].any()
    assert np.array_equal(np.concatenate(next(iter(pieces.values()))), samples)


@pytest.mark.parametrize("below", [20, 26, 35])
@pytest.mark.parametrize("pause", [0.5, 60.0])
def test_a_quiet_speaker_after_a_loud_one_is_found_and_raised(below: int, pause: float) -> None:
    loud, quiet = SPEECH * 0.3, SPEECH * (0.3 * 10 ** (-below / 20))
    samples = np.concatenate([loud, np.zeros(int(pause * RATE)), quiet]) + 0.0
    samples += noise(-85, len(samples) / RATE + 1)[: len(samples)]
    wanted = speech_frames(SPEECH)
    assert (speech_frames(samples)[-len(SPEECH) :] & wanted).sum() > 0.97 * wanted.sum()
    last = list(find_speech(samples.astype(np.float32), DETECTOR, VadOptions(), 60.0))[-1]
    if pause < 2:  # in one and the same window
        assert last.raised[-1][1] == last.end
        assert last.raised[-1][2] * 10 ** (-below / 20) == pytest.approx(0.5, rel=0.3)
    else:
        assert not last.raised
