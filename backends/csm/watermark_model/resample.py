"""Windowed-sinc resampling between two rates, whole or piece by piece.

Both rates are reduced by their common divisor to `old` and `new`; output phase i of `new` is a short filter over the
input at stride `old`. The same filter as torchaudio's default (6 zero crossings, rolloff 0.99, Hann window), which
CSM's published watermarking uses.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Samples = NDArray[np.float32]
_ZEROS, _ROLLOFF = 6, 0.99


def resample(samples: Samples, rate: int, target: int) -> Samples:
    """float32 [n] at `rate` Hz -> float32 [ceil(target * n / rate)] at `target` Hz."""
    if rate == target or not len(samples):
        return np.ascontiguousarray(samples, np.float32)
    old, new = _reduced(rate, target)
    kernel, width = _kernel(old, new)
    signal = F.pad(torch.from_numpy(np.ascontiguousarray(samples, np.float32)), (width, width + old))
    return _filtered(signal, kernel, old)[: math.ceil(new * len(samples) / old)].numpy()


class StreamResampler:
    """The same filter on a signal that comes in pieces: the joined results equal `resample` of the joined pieces."""

    def __init__(self, rate: int, target: int) -> None:
        self._old, self._new = _reduced(rate, target)
        self._kernel, self._width = _kernel(self._old, self._new)
        self._tail = torch.zeros(self._width)
        self._taken = self._given = 0

    def push(self, samples: Samples, *, last: bool = False) -> Samples:
        """The next piece -> what can be computed by now; `last` flushes the rest."""
        self._taken += len(samples)
        if self._old == self._new:
            return np.ascontiguousarray(samples, np.float32)
        signal = torch.cat([self._tail, torch.from_numpy(np.ascontiguousarray(samples, np.float32))])
        if last:
            signal = F.pad(signal, (0, self._width + self._old))
        strides = max(0, (len(signal) - self._kernel.shape[2]) // self._old + 1)
        made = _filtered(signal, self._kernel, self._old) if strides else torch.zeros(0)
        self._tail = signal[strides * self._old :]
        if last:
            made = made[: math.ceil(self._new * self._taken / self._old) - self._given]
        self._given += len(made)
        return made.numpy()


def _reduced(rate: int, target: int) -> tuple[int, int]:
    divisor = math.gcd(rate, target)
    return rate // divisor, target // divisor


def _filtered(signal: Tensor, kernel: Tensor, stride: int) -> Tensor:
    return F.conv1d(signal[None, None], kernel, stride=stride)[0].T.reshape(-1)


@lru_cache(maxsize=8)
def _kernel(old: int, new: int) -> tuple[Tensor, int]:
    """Filters [new, 1, taps] and the number of input samples they reach back."""
    base = min(old, new) * _ROLLOFF
    width = math.ceil(_ZEROS * old / base)
    index = torch.arange(-width, width + old, dtype=torch.float32) / old
    phase = torch.arange(new, dtype=torch.float32)[:, None] / new
    t = (base * (index - phase)).clamp(-_ZEROS, _ZEROS)
    window = torch.cos(t * math.pi / _ZEROS / 2) ** 2
    return ((base / old) * torch.sinc(t) * window)[:, None], width
