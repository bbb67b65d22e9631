"""Log-mel against the reference feature extractor, and reading without keeping."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import psutil
import pytest
from transformers import WhisperFeatureExtractor

from backends.audio.mapped import read_samples
from backends.whisper.audio import WINDOW_SAMPLES, log_mel, mel_filters, recorded_mel

TIME = np.arange(WINDOW_SAMPLES) / 16_000
SIGNALS = {
    "noise": np.random.default_rng(0).standard_normal(WINDOW_SAMPLES) * 0.1,
    "short": np.random.default_rng(1).standard_normal(16_000) * 0.1,
    "tone": 0.8 * np.sin(2 * np.pi * 440 * TIME),
    "fading chirp": np.sin(2 * np.pi * (50 * TIME + 100 * TIME**2)) * np.exp(-TIME / 4),
    "too long": np.random.default_rng(2).standard_normal(WINDOW_SAMPLES + 12_345) * 0.1,
    "almost full": np.random.default_rng(3).standard_normal(WINDOW_SAMPLES - 100) * 0.1,
    "three samples": np.ones(3),
    "silence": np.zeros(32_000),
}


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize("name", SIGNALS)
def test_mel_equals_the_reference(name: str, mels: int) -> None:
    samples = SIGNALS[name].astype(np.float32)
    expected = WhisperFeatureExtractor(feature_size=mels)(samples, sampling_rate=16_000, return_tensors="np")[
        "input_features"
    ][0]
    assert np.abs(log_mel(samples, mels) - expected).max() < 1e-4


def test_the_double_precision_path_of_the_reference_is_met_closely() -> None:
    samples = np.zeros(WINDOW_SAMPLES, np.float32)
    samples[:] = SIGNALS["fading chirp"]
    expected = WhisperFeatureExtractor()._np_extract_fbank_features([samples], "cpu")[0]
    assert np.abs(log_mel(samples, 80) - expected).max() < 1e-6


def test_a_window_is_filled_up_with_zeros_behind_the_recorded_frames() -> None:
    samples = SIGNALS["short"].astype(np.float32)[:15_999]
    mel, silent = recorded_mel(samples, 80), log_mel(samples, 80)
    assert np.array_equal(mel[:, :99], silent[:, :99])
    assert not mel[:, 99:].any()
    assert silent[:, 110:].max() < -0.3
    whole = SIGNALS["noise"].astype(np.float32)
    assert np.array_equal(recorded_mel(whole, 80), log_mel(whole, 80))


def test_nothing_at_all_is_silence() -> None:
    mel = log_mel(np.zeros(0, np.float32), 80)
    assert mel.shape == (80, 3000)
    assert np.allclose(mel, -1.5)


def test_a_smaller_window_is_the_beginning_of_its_own_window() -> None:
    samples = SIGNALS["noise"].astype(np.float32)
    assert log_mel(samples, 80, 200).shape == (80, 200)


def test_filters_cover_the_band_without_gaps() -> None:
    assert (mel_filters(80).sum(axis=0)[1:200] > 0).all()


@pytest.mark.skipif(not hasattr(mmap.mmap, "madvise"), reason="Windows trims working sets by itself")
def test_hours_that_were_read_do_not_stay_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "hour.f32"
    with path.open("wb") as file:
        file.truncate(200_000_000)
    samples = np.memmap(path, np.float32, mode="r")
    before = psutil.Process().memory_info().rss
    for first in range(0, len(samples), WINDOW_SAMPLES):
        assert not read_samples(samples, first, first + WINDOW_SAMPLES).any()
    assert psutil.Process().memory_info().rss - before < 50_000_000


def test_what_was_read_is_a_copy() -> None:
    samples = np.arange(10, dtype=np.float32)
    part = read_samples(samples, 2, 20)
    part[:] = 0
    assert samples.tolist() == list(range(10))
    assert len(part) == 8
