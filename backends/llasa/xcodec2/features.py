"""The mel features that w2v-bert-2.0 takes: Kaldi filter banks, normalised per utterance, two frames to a row.

The parameters are those of transformers' SeamlessM4TFeatureExtractor, computed here with torch so that neither
torchaudio nor a loop over frames is needed. Knows nothing of the codec but that its frames are two mel frames long.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from backends.llasa.xcodec2.config import SAMPLE_RATE

MEL_BINS = 80
STACKED = 2  # mel frames per row
_FRAME, _SHIFT, _FFT = 400, 160, 512  # samples: 25 ms, 10 ms, next power of two
_PREEMPHASIS = 0.97
_LOW, _HIGH = 20.0, SAMPLE_RATE / 2  # Hz
_FLOOR = 1.192092955078125e-07  # Kaldi's smallest energy: float32's epsilon
_INT16 = 2.0**15  # Kaldi works on 16-bit sample values


def semantic_features(wave: Tensor) -> Tensor:
    """wave float32 [samples], a multiple of 320 -> float32 [1, samples / 320, 160]."""
    padded = F.pad(wave.double(), (_SHIFT, _SHIFT)) * _INT16
    mel = log_mel(padded)
    mel = (mel - mel.mean(0)) / torch.sqrt(mel.var(0, correction=1) + 1e-7)
    rows = mel.shape[0] // STACKED
    return mel[: rows * STACKED].float().reshape(1, rows, STACKED * MEL_BINS)


def log_mel(wave: Tensor) -> Tensor:
    """wave float64 [samples] -> natural logarithm of the filter bank energies, float64 [frames, 80]."""
    frames = wave.unfold(0, _FRAME, _SHIFT)
    frames = frames - frames.mean(1, keepdim=True)
    before = torch.cat([frames[:, :1], frames[:, :-1]], 1)  # Kaldi repeats the first sample
    power = torch.fft.rfft((frames - _PREEMPHASIS * before) * _window(wave.device), _FFT).abs().square()
    energies: Tensor = power @ _filters(wave.device)
    return energies.clamp_min(_FLOOR).log()


@cache
def _window(device: torch.device) -> Tensor:
    """Povey's window: a Hann window (ending in zeros) to the power 0.85."""
    return torch.hann_window(_FRAME, periodic=False, dtype=torch.float64, device=device).pow(0.85)


@cache
def _filters(device: torch.device) -> Tensor:
    """Triangles that are straight on Kaldi's mel scale, float64 [bins of the FFT, 80]."""
    edges = torch.linspace(float(_mel(_LOW)), float(_mel(_HIGH)), MEL_BINS + 2, dtype=torch.float64)
    mel_bins = _mel(torch.arange(_FFT // 2 + 1, dtype=torch.float64) * SAMPLE_RATE / _FFT)[:, None]
    rising = (mel_bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel_bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp_min(0).to(device)


def _mel(hertz: Tensor | float) -> Tensor:
    return 1127.0 * torch.log1p(torch.as_tensor(hertz, dtype=torch.float64) / 700.0)
