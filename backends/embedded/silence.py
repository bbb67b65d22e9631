"""Silence around speech: cut from what a model makes, put where a pause belongs.

Times in seconds. Knows no voice.
"""

from __future__ import annotations

import numpy as np

from backends.interface import Samples

_FRAME = 0.005
_AUDIBLE_SHARE = 0.02  # of the loudest frame's level, -34 dB: quieter frames at the ends are silence or breath
_KEPT_BEFORE, _KEPT_BEHIND = 0.03, 0.06
_PAUSES = {",": 0.14, ";": 0.22, ":": 0.22, "…": 0.35, ".": 0.32, "!": 0.32, "?": 0.32}
_PAUSE = 0.06  # behind a piece that ends without a mark


def trimmed(samples: Samples, rate: int) -> Samples:
    """`samples` (float32 [time] at `rate` Hz) without the silence at its ends, but for a few hundredths of a second."""
    frame = max(1, int(_FRAME * rate))
    count = len(samples) // frame
    levels = np.sqrt(np.mean(np.square(samples[: count * frame].reshape(count, frame)), axis=1))
    loud = np.flatnonzero(levels > _AUDIBLE_SHARE * levels.max(initial=0.0))
    if not loud.size:
        return samples[:0]
    begin = max(0, int(loud[0]) * frame - int(_KEPT_BEFORE * rate))
    end = (int(loud[-1]) + 1) * frame + int(_KEPT_BEHIND * rate)
    return samples[begin:end]


def pause_behind(phonemes: str) -> float:
    """How long to wait behind a piece at speed 1, told by the mark that ends its phonemes."""
    mark = phonemes.rstrip(' ”")»')[-1:]
    return _PAUSES.get(mark, _PAUSE)


def silence(duration: float, rate: int) -> Samples:
    return np.zeros(int(duration * rate), np.float32)
