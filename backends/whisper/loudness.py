"""How loud a recording is, and how much of it is raised so that its quiet passages are heard.

Owns levels and gains. A level is the peak of a passage without the loudest hundredth of its frames: a click says
nothing of how loud somebody speaks. Knows the frames of the speech detector, but not what it finds in them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backends.audio.vad import FRAME, FRAME_SECONDS
from backends.interface import Samples

QUIET_SECONDS = 2.0  # that a passage must last to be raised after a louder one, for the detector
_NEAR = round(QUIET_SECONDS / FRAME_SECONDS)  # frames
AHEAD = _NEAR * FRAME  # samples that must be known beyond a piece
_QUIET, _RAISED = 0.02, 0.05  # level of a passage that is raised for the detector, and to what
_LARGEST_GAIN = 100.0  # 40 dB
_CLICKS = 0.01  # share of frames that may be louder than the level
# Whisper hears who is 15 dB below another speaker of the same window, and misses sentences of one at 20 dB (tiny.en,
# telephone band after full band). Raised to half the other's level, it heard all of them at 25 and at 35 dB.
_FAR_BELOW, _BROUGHT_TO = 10 ** (-15 / 20), 0.5


def frame_absmax(samples: Samples) -> Samples:
    """The peak of each frame of the detector: [frames]; the last frame may be short."""
    if not len(samples):
        return np.zeros(0, np.float32)
    absmax: Samples = np.maximum.reduceat(np.abs(samples), np.arange(0, len(samples), FRAME))
    return absmax


def level(absmax: Samples) -> float:
    """Of one passage, by the absolute maximum of each of its frames (at least one)."""
    return float(np.sort(absmax)[-1 - int(_CLICKS * len(absmax))])


class SlowGain:
    """One gain for a piece of some 20 s, so that the detector, which misses speech below a peak of about 0.005, hears
    quiet recordings too. The level falls by half a piece at most: the pauses of a recording at an ordinary level are
    heard as they are."""

    def __init__(self) -> None:
        self._level = 0.0

    def of(self, absmax: Samples) -> float:
        """For the next piece: 1 unless it is quiet."""
        self._level = max(level(absmax), self._level / 2)
        return _gain(self._level)


class QuickGain:
    """A gain for every frame, by the quieter of the two seconds before and behind it: a quiet speaker is raised from
    the first word after a loud one, and what lasts less than those seconds is not raised."""

    def __init__(self) -> None:
        self._before = np.zeros(0, np.float32)

    def of(self, absmax: Samples, ahead: Samples) -> Samples:
        """absmax: of the next piece [frames]; ahead: of the two seconds after it, less at the end. Returns [frames]."""
        known = np.concatenate([self._before, absmax, ahead])
        begun, count = len(self._before), len(absmax)
        self._before = known[: begun + count][-_NEAR:]
        behind = _levels(np.concatenate([known[begun:], np.zeros(_NEAR - 1, np.float32)]))[:count]
        before = _levels(np.concatenate([np.zeros(_NEAR - 1, np.float32), known]))[begun : begun + count]
        return _gains(np.minimum(behind, before))


def _levels(absmax: Samples) -> Samples:
    """The second largest of every `_NEAR` absmax in a row: [len(absmax) - _NEAR + 1]."""
    windows = np.lib.stride_tricks.sliding_window_view(absmax, _NEAR)
    levels: Samples = np.partition(windows, -2, axis=1)[:, -2]
    return levels


def _gains(levels: Samples) -> Samples:
    gains: Samples = np.clip(_RAISED / np.maximum(levels, 1e-9), 1.0, _LARGEST_GAIN).astype(np.float32)
    gains[(levels >= _QUIET) | (levels == 0.0)] = 1.0
    return gains


def _gain(of_level: float) -> float:
    return float(_gains(np.array([of_level], np.float32))[0])


def raised(samples: Samples, gains: Samples | float) -> Samples:
    """The samples, each frame by its gain, within -1..1; the very same where nothing is raised."""
    if np.max(gains) == 1.0:
        return samples
    each = np.repeat(gains, FRAME)[: len(samples)] if isinstance(gains, np.ndarray) else np.float32(gains)
    louder: NDArray[np.float32] = np.clip(samples * each, -1.0, 1.0)
    return louder


def gain_beside(of_passage: float, loudest: float) -> float:
    """How much a passage is raised that the recogniser hears together with one of the level `loudest`: 1 unless far
    below it."""
    if not 0.0 < of_passage < _FAR_BELOW * loudest:
        return 1.0
    return min(_LARGEST_GAIN, _BROUGHT_TO * loudest / of_passage)
