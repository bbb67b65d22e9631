"""From windows whose voices are known to the turns of a recording.

Owns the vote of overlapping windows, how many speakers are heard at once, and the turns with and without overlap. Knows
no network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from backends.diarization.networks import FIRST_CENTRE, FRAME_SAMPLES
from backends.interface import ASR_SAMPLE_RATE, Turn

Bools = NDArray[np.bool_]

_FRAME_SECONDS = FRAME_SAMPLES / ASR_SAMPLE_RATE
_FIRST_EDGE = FIRST_CENTRE / ASR_SAMPLE_RATE - _FRAME_SECONDS / 2  # where the first frame begins, seconds


class Votes:
    """What the windows say of each frame of the recording."""

    def __init__(self, length: int, speakers: int) -> None:
        """length: of the recording, samples."""
        frames = -(-length // FRAME_SAMPLES) + 1
        self._votes = np.zeros((frames, speakers), np.float32)
        self._voices = np.zeros(frames, np.float32)  # voices, summed over the windows
        self._windows = np.zeros(frames, np.float32)

    def add(self, start: int, active: Bools, speakers: Sequence[int]) -> None:
        """Count a window. start: its first sample; active: bool [frames, 3]; speakers: of its three voices, -1 =
        none."""
        first = round(start / FRAME_SAMPLES)
        active = active[: len(self._voices) - first]
        place = slice(first, first + len(active))
        self._windows[place] += 1
        self._voices[place] += active.sum(1)
        for voice, speaker in enumerate(speakers):
            if speaker >= 0:
                self._votes[place, speaker] += active[:, voice]

    def active(self) -> Bools:
        """Who speaks in which frame [frames, speakers], as many as the windows say on average."""
        count = np.round(self._voices / np.maximum(self._windows, 1)).astype(int)
        return self._foremost(count)

    def exclusive(self) -> Bools:
        """The same with one speaker per frame at most."""
        count = np.round(self._voices / np.maximum(self._windows, 1)).astype(int)
        return self._foremost(np.minimum(count, 1))

    def _foremost(self, count: NDArray[np.intp]) -> Bools:
        """The `count` speakers of each frame with the most votes."""
        rank = np.argsort(np.argsort(-self._votes, axis=1, kind="stable"), axis=1, kind="stable")
        foremost: Bools = (rank < count[:, None]) & (self._votes > 0)
        return foremost


def turns_of(active: Bools, duration: float, max_pause: float, min_turn: float) -> list[Turn]:
    """Turns in order of their starts. active: bool [frames, speakers]; the rest seconds."""
    found = [
        Turn(start, min(end, duration), speaker)
        for speaker in range(active.shape[1])
        for start, end in _joined(_runs(active[:, speaker]), max_pause)
        if min(end, duration) - start >= min_turn
    ]
    return sorted(found, key=lambda turn: (turn.start, turn.end))


def _runs(active: Bools) -> Iterator[tuple[float, float]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]]).astype(np.int8)))
    for first, end in edges.reshape(-1, 2).tolist():
        yield max(0.0, _seconds(first)), _seconds(end)


def _seconds(frame: int) -> float:
    return float(round(_FIRST_EDGE + frame * _FRAME_SECONDS, 3))


def _joined(runs: Iterator[tuple[float, float]], max_pause: float) -> Iterator[tuple[float, float]]:
    current: tuple[float, float] | None = None
    for start, end in runs:
        if current is None:
            current = (start, end)
        elif start - current[1] <= max_pause:
            current = (current[0], end)
        else:
            yield current
            current = (start, end)
    if current is not None:
        yield current


def by_appearance(turns: Sequence[Turn]) -> dict[int, int]:
    """New numbers for the speakers, from 0 in order of their first turn."""
    order = dict.fromkeys(turn.speaker for turn in turns)
    return {speaker: number for number, speaker in enumerate(order)}
