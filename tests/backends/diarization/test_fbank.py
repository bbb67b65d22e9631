"""Filter banks against Kaldi's own code, and what their shapes are."""

from __future__ import annotations

import kaldi_native_fbank
import numpy as np
import pytest

from backends.diarization.fbank import FRAME, MELS, fbank


def kaldi(samples: np.ndarray) -> np.ndarray:
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = "hamming"
    options.mel_opts.num_bins = MELS
    options.use_energy = False
    computer = kaldi_native_fbank.OnlineFbank(options)
    computer.accept_waveform(16_000, (samples * 32_768).tolist())
    computer.input_finished()
    return np.stack([computer.get_frame(number) for number in range(computer.num_frames_ready)])


@pytest.mark.parametrize("level", [1e-4, 0.1])
def test_filter_banks_are_kaldis(level: float) -> None:
    time = np.arange(16_000) / 16_000
    noise = np.random.default_rng(1).standard_normal(16_000)
    samples = (level * (np.sin(2 * np.pi * 220 * time) + 0.1 * noise)).astype(np.float32)
    ours, theirs = fbank(samples), kaldi(samples)
    assert ours.shape == theirs.shape == (98, MELS)
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


@pytest.mark.parametrize(("length", "frames"), [(0, 0), (FRAME - 1, 0), (FRAME, 1), (FRAME + 159, 1), (FRAME + 160, 2)])
def test_only_whole_frames_count(length: int, frames: int) -> None:
    assert fbank(np.zeros(length, np.float32)).shape == (frames, MELS)


def test_silence_is_finite() -> None:
    assert np.isfinite(fbank(np.zeros(FRAME, np.float32))).all()
