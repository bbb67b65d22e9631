"""Sound as Whisper sees it: signal constants, log-mel spectrogram, 30 s windows.

Knows no model and no file format; numpy only.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from backends.interface import InvalidInput

Floats = NDArray[np.float32]

SAMPLE_RATE = 16_000  # Hz
FFT_SIZE = 400  # samples, 25 ms
HOP = 160  # samples between frames, 10 ms
WINDOW_SECONDS = 30
WINDOW_SAMPLES = WINDOW_SECONDS * SAMPLE_RATE
WINDOW_FRAMES = WINDOW_SAMPLES // HOP  # 3000
FRAMES_PER_SECOND = SAMPLE_RATE // HOP
SECONDS_PER_TIMESTAMP = 0.02  # one timestamp token, and one encoder position (two frames)

_CHUNK_FRAMES = 512  # frames transformed at once, so that a long input needs little memory
_LOUDEST = 1e9  # full scale is 1; the squares of more would overflow
_DYNAMIC_RANGE = 8.0  # decades below the loudest bin that are kept


def checked_samples(piece: NDArray[np.float32]) -> Floats:
    """Samples as float32 [time]. Raises InvalidInput for what is no sound: it would become text all the same."""
    samples = np.asarray(piece, np.float32)
    if samples.ndim != 1:
        raise InvalidInput("audio is one channel: samples of shape [time]", param="samples")
    if not (np.abs(samples) < _LOUDEST).all():
        raise InvalidInput("audio holds values that are no samples (not finite, or beyond all bounds)", param="samples")
    return samples


def log_mel(samples: Floats, mels: int, window_frames: int = WINDOW_FRAMES) -> Floats:
    """Log-mel spectrogram of one window, as WhisperFeatureExtractor makes it.

    samples: float32 [time] at 16 kHz, cut or padded with zeros to the window (30 s); returns float32 [mels,
    window_frames].
    """
    power = np.zeros((mels, window_frames), dtype=np.float32)
    used = samples[: window_frames * HOP]
    frames = min(window_frames, -(-(len(used) + FFT_SIZE // 2) // HOP))  # the rest sees only zeros
    padded = _centred(np.asarray(used, dtype=np.float32), window_frames * HOP)
    shape = (frames, FFT_SIZE)
    view = np.lib.stride_tricks.as_strided(padded, shape, (padded.strides[0] * HOP, padded.strides[0]), writeable=False)
    filters, window = mel_filters(mels), _hann()
    for first in range(0, frames, _CHUNK_FRAMES):
        spectrum = np.fft.rfft(view[first : first + _CHUNK_FRAMES] * window)
        energy = spectrum.real**2 + spectrum.imag**2
        power[:, first : first + len(spectrum)] = filters @ energy.astype(np.float32).T
    logarithm = np.log10(np.maximum(power, np.float32(1e-10)))
    floored = np.maximum(logarithm, logarithm.max() - np.float32(_DYNAMIC_RANGE))
    scaled: Floats = (floored + np.float32(4)) / np.float32(4)
    return scaled


def recorded_mel(samples: Floats, mels: int, window_frames: int = WINDOW_FRAMES) -> Floats:
    """The spectrogram with zeros behind what was recorded, as openai-whisper and faster-whisper fill up a window: not
    with silence, which is below zero wherever the recording is loud."""
    mel = log_mel(samples, mels, window_frames)
    mel[:, len(samples) // HOP :] = 0.0
    return mel


def _centred(samples: Floats, length: int) -> Floats:
    """`length` samples, zeros behind the given ones, with half an FFT mirrored at both ends (torch.stft's padding)."""
    full = np.zeros(length + FFT_SIZE, dtype=np.float32)
    half = FFT_SIZE // 2
    full[half : half + len(samples)] = samples
    full[:half] = full[half + 1 : FFT_SIZE + 1][::-1]
    end = half + length
    full[end:] = full[end - 1 - half : end - 1][::-1]
    return full


@lru_cache(maxsize=1)
def _hann() -> NDArray[np.float64]:
    """Periodic Hann window."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT_SIZE) / FFT_SIZE)


def _to_mel(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slaney's scale: linear to 1 kHz, logarithmic above."""
    linear = hertz * 3 / 200
    return np.where(hertz < 1000, linear, 15 + np.log(np.maximum(hertz, 1e-9) / 1000) * 27 / np.log(6.4))


def _to_hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


@lru_cache(maxsize=4)
def mel_filters(mels: int) -> Floats:
    """Triangular filters from 0 to 8 kHz, each of unit area (Slaney); float32 [mels, 201]."""
    bins = np.linspace(0, SAMPLE_RATE / 2, FFT_SIZE // 2 + 1)
    edges = _to_hertz(np.linspace(0, float(_to_mel(np.array(SAMPLE_RATE / 2))), mels + 2))
    rise = (bins[None, :] - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - bins[None, :]) / np.diff(edges)[1:, None]
    area = 2 / (edges[2:] - edges[:-2])
    filters: Floats = (np.maximum(0, np.minimum(rise, fall)) * area[:, None]).astype(np.float32)
    return filters
