"""Log-mel filter banks as Kaldi computes them, which is what speaker encoders are trained on.

Frames of 25 ms every 10 ms, Hamming window, pre-emphasis 0.97, no dither, 80 triangular filters from 20 Hz to 8 kHz on
the HTK scale, natural logarithm. Knows no model; numpy only.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SAMPLE_RATE = 16_000  # Hz
FRAME = 400  # samples, 25 ms
HOP = 160  # samples, 10 ms
MELS = 80
_FFT_SIZE = 512  # the next power of two
_PREEMPHASIS = 0.97
_LOWEST_HZ = 20.0
_FULL_SCALE = 32_768.0  # Kaldi reads 16-bit numbers
_FLOOR = np.finfo(np.float32).eps


def fbank(samples: Floats) -> Floats:
    """Log-mel energies float32 [frames, 80] of samples float32 [time] at 16 kHz, only of frames that lie wholly in
    them."""
    if len(samples) < FRAME:
        return np.zeros((0, MELS), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME)[::HOP] * np.float32(_FULL_SCALE)
    frames = frames - frames.mean(1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], 1)
    spectrum = np.fft.rfft((frames - np.float32(_PREEMPHASIS) * before) * _hamming(), _FFT_SIZE)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
    energies: Floats = np.log(np.maximum(power @ _filters(), _FLOOR))
    return energies


@lru_cache(maxsize=1)
def _hamming() -> Floats:
    return np.hamming(FRAME).astype(np.float32)


@lru_cache(maxsize=1)
def _filters() -> Floats:
    """Triangles float32 [bins, mels], of height one and straight on the mel scale."""
    edges = np.linspace(_mel(np.array(_LOWEST_HZ)), _mel(np.array(SAMPLE_RATE / 2)), MELS + 2)
    bins = _mel(np.arange(_FFT_SIZE // 2 + 1) * (SAMPLE_RATE / _FFT_SIZE))[:, None]
    rise = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters: Floats = np.maximum(0, np.minimum(rise, fall)).astype(np.float32)
    filters[-1] = 0  # Kaldi leaves the Nyquist bin out
    return filters


def _mel(hertz: NDArray[np.floating]) -> NDArray[np.float64]:
    mels: NDArray[np.float64] = 1127.0 * np.log(1.0 + hertz / 700.0)
    return mels
