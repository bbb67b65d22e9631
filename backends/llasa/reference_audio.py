"""Reference clips to clone from: read as mono, resampled to the codec's rate, and checked.

Knows audio files and samples; nothing of models.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from backends.audio import voice_folder
from backends.interface import InvalidInput
from backends.llasa.xcodec2.config import SAMPLE_RATE

Samples = NDArray[np.float32]

_SILENT = 1e-3  # peak amplitude below which a clip holds no speech
_SHORTEST = 0.5  # seconds
_MOST_READ = 600.0  # seconds that are read of a file, whatever length it claims


def read_clip(path: Path) -> Samples:
    """float32 [time], mono, at 16 kHz. Raises InvalidInput for a file that cannot be read."""
    return to_codec_rate(*voice_folder.read_clip(path, _MOST_READ))


def to_codec_rate(samples: Samples, rate: int) -> Samples:
    """Mono samples at `rate` Hz, resampled to 16 kHz."""
    if rate == SAMPLE_RATE:
        return np.ascontiguousarray(samples, np.float32)
    return np.asarray(soxr.resample(samples, rate, SAMPLE_RATE, "HQ"), np.float32)


def usable_reference(samples: Samples, longest: float) -> Samples:
    """The clip, if it can be cloned from. Raises InvalidInput: too long, too short, silent, not finite."""
    seconds = len(samples) / SAMPLE_RATE
    if seconds > longest:
        raise InvalidInput(
            f"the reference clip is {seconds:.1f} s long; at most {longest:g} s can be cloned from",
            param="reference_audio",
        )
    if seconds < _SHORTEST:
        raise InvalidInput(
            f"the reference clip is {seconds:.2f} s long; at least {_SHORTEST} s are needed", param="reference_audio"
        )
    if not np.isfinite(samples).all():
        raise InvalidInput("the reference clip holds values that are not numbers", param="reference_audio")
    if np.abs(samples).max() < _SILENT:
        raise InvalidInput("the reference clip is silent", param="reference_audio")
    return np.ascontiguousarray(samples, np.float32)
