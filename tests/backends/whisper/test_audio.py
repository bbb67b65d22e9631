"""Log-mel against the reference feature extractor."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import WhisperFeatureExtractor

from backends.whisper.audio import WINDOW_SAMPLES, log_mel, mel_filters

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
    expected = WhisperFeatureExtractor(feature_size=mels)(samples, sampling_rate=16_000, return_tensors="np")["input_features"][0]
    assert np.abs(log_mel(samples, mels) - expected).max() < 1e-4


def test_the_double_precision_path_of_the_reference_is_met_closely() -> None:
    samples = np.zeros(WINDOW_SAMPLES, np.float32)
    samples[:] = SIGNALS["fading chirp"]
    expected = WhisperFeatureExtractor()._np_extract_fbank_features([samples], "cpu")[0]
    assert np.abs(log_mel(samples, 80) - expected).max() < 1e-6


def test_nothing_at_all_is_silence() -> None:
    mel = log_mel(np.zeros(0, np.float32), 80)
    assert mel.shape == (80, 3000)
    assert np.allclose(mel, -1.5)


def test_a_smaller_window_is_the_beginning_of_its_own_window() -> None:
    samples = SIGNALS["noise"].astype(np.float32)
    assert log_mel(samples, 80, 200).shape == (80, 200)


def test_filters_cover_the_band_without_gaps() -> None:
    assert (mel_filters(80).sum(axis=0)[1:200] > 0).all()
