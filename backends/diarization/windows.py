"""Where windows and blocks lie in a recording, and which features belong to which voice of a window.

Windows of 10 s overlap, for the segmentation; blocks of 10 s do not, for the encoder. Knows no network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backends.diarization.networks import FIRST_CENTRE, FRAME_SAMPLES, WINDOW_SAMPLES

Bools = NDArray[np.bool_]

_LEAST_CLEAN = 0.5  # seconds of a voice alone; with less, its speech over others' counts too


@dataclass(frozen=True, slots=True)
class Grid:
    """The windows of a recording. length: of it, samples; spacing: samples from one window's start to the next's."""

    length: int
    spacing: int

    @property
    def windows(self) -> int:
        return 1 + max(0, -(-(self.length - WINDOW_SAMPLES) // self.spacing))

    @property
    def blocks(self) -> int:
        return -(-self.length // WINDOW_SAMPLES)

    def start(self, window: int) -> int:
        """Of a window, samples."""
        return window * self.spacing

    def within(self, block: int) -> range:
        """The windows that reach into a block."""
        first = max(0, (block - 1) * WINDOW_SAMPLES // self.spacing + 1)
        last = min(self.windows - 1, ((block + 1) * WINDOW_SAMPLES - 1) // self.spacing)
        return range(first, last + 1)

    def complete(self, segmented: int) -> int:
        """How many blocks have all their windows among the first `segmented` ones."""
        if segmented >= self.windows:
            return self.blocks
        return self.start(segmented) // WINDOW_SAMPLES


def voices(active: Bools) -> Bools:
    """The frames [frames, 3] of a window to know each voice by: where it speaks alone, or all where that is too
    little."""
    alone = active & (active.sum(-1, keepdims=True) == 1)
    enough = alone.sum(0) * FRAME_SAMPLES >= _LEAST_CLEAN * 16_000
    return np.where(enough, alone, active)


def clean_seconds(active: Bools) -> NDArray[np.float64]:
    """Seconds [3] for which each voice of a window speaks alone."""
    alone = active & (active.sum(-1, keepdims=True) == 1)
    seconds: NDArray[np.float64] = alone.sum(0) * (FRAME_SAMPLES / 16_000)
    return seconds


def cells_of(frames: Bools, offset: int, cells: int, cell_samples: int) -> Bools:
    """Which of a block's features [cells, 3] belong to each voice.

    frames: bool [frames, 3] of a window; offset: samples from the window's start to the block's.
    """
    centres = offset + (np.arange(cells) + 0.5) * cell_samples
    nearest = np.round((centres - FIRST_CENTRE) / FRAME_SAMPLES).astype(int)
    inside = (centres >= 0) & (centres < WINDOW_SAMPLES)
    found: Bools = frames[np.clip(nearest, 0, len(frames) - 1)] & inside[:, None]
    return found
