"""Conversations whose turns are known, put together from recordings of single voices, and how far turns are from them.

Times are seconds, audio is float32 [time] at 16 kHz.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from backends.interface import ASR_SAMPLE_RATE as RATE
from backends.interface import Samples, Turn

_HOP = 320  # samples, 20 ms, of the look at loudness
_SILENCE = 0.02  # of the loudest frame
_PAUSE = 0.3  # shorter ones are part of a turn
_LEVEL = 0.05  # root mean square of every piece


class Piece(NamedTuple):
    """Some seconds of one voice. spoken: when, from its start."""

    samples: Samples
    spoken: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Conversation:
    samples: Samples
    turns: tuple[Turn, ...]

    @property
    def duration(self) -> float:
        return len(self.samples) / RATE


def pieces_of(voice: Samples, longest: float = 5.0) -> list[Piece]:
    """A recording of one voice cut at its pauses."""
    found: list[list[tuple[float, float]]] = []
    for start, end in _spoken(voice):
        if found and end - found[-1][0][0] <= longest:
            found[-1].append((start, end))
        else:
            found.append([(start, end)])
    return [_piece(voice, runs) for runs in found if runs[-1][1] - runs[0][0] > 0.8]


def _piece(voice: Samples, runs: list[tuple[float, float]]) -> Piece:
    start, end = runs[0][0], runs[-1][1]
    samples = voice[int(start * RATE) : int(end * RATE)]
    level = np.float32(_LEVEL / np.sqrt(np.mean(np.square(samples))))
    return Piece(samples * level, tuple((a - start, b - start) for a, b in runs))


def _spoken(voice: Samples) -> list[tuple[float, float]]:
    """Where a recording is louder than its silence, over short pauses."""
    frames = np.sqrt(np.mean(np.square(voice[: len(voice) // _HOP * _HOP].reshape(-1, _HOP)), axis=1))
    loud = np.concatenate([[False], frames > _SILENCE * frames.max(), [False]]).astype(np.int8)
    runs: list[tuple[float, float]] = []
    for first, last in np.flatnonzero(np.diff(loud)).reshape(-1, 2) * _HOP / RATE:
        if runs and first - runs[-1][1] < _PAUSE:
            runs[-1] = (runs[-1][0], last)
        else:
            runs.append((first, last))
    return [(float(a), float(b)) for a, b in runs if b - a > 0.1]


def converse(
    voices: Sequence[Sequence[Piece]], turns: int, *, seed: int = 0, overlap: float = 0.15, noise: float = 0.001
) -> Conversation:
    """`turns` pieces by changing voices. overlap: share of turns that begin before the last one ends; noise: root mean
    square of what is heard everywhere."""
    source, at, said, placed = random.Random(seed), 0.5, [], []
    order = _order(len(voices), turns, source)
    used = [0] * len(voices)
    for voice in order:
        piece = voices[voice][used[voice] % len(voices[voice])]
        used[voice] += 1
        placed.append((at, piece))
        said += [Turn(at + a, at + b, voice) for a, b in piece.spoken]
        length = len(piece.samples) / RATE
        at += length + (-source.uniform(0.2, 0.6) if source.random() < overlap else source.uniform(0.2, 0.7))
    samples = np.random.default_rng(seed).standard_normal(int((at + 1.0) * RATE)).astype(np.float32) * np.float32(noise)
    for start, piece in placed:
        first = int(start * RATE)
        samples[first : first + len(piece.samples)] += piece.samples
    return Conversation(samples, tuple(said))


def _order(voices: int, turns: int, source: random.Random) -> list[int]:
    """Everybody once, then whoever, but never twice in a row."""
    order = list(range(voices))
    while len(order) < turns:
        order.append(source.choice([voice for voice in range(voices) if voice != order[-1]]))
    return order[:turns]


def error_rate(truth: Sequence[Turn], found: Sequence[Turn], duration: float, collar: float = 0.25) -> float:
    """The diarization error rate: missed, invented and confused speech by the speech there is, under the best naming.

    collar: seconds around the ends of true turns that do not count.
    """
    step = 0.01
    real, told = _grid(truth, duration, step), _grid(found, duration, step)
    counted = np.ones(len(real), bool)
    for edge in (edge for turn in truth for edge in (turn.start, turn.end)):
        counted[max(0, round((edge - collar) / step)) : round((edge + collar) / step)] = collar == 0
    real, told = real[counted], told[counted]
    told = np.pad(told, ((0, 0), (0, max(0, real.shape[1] - told.shape[1]))))
    together = real.T.astype(np.int64) @ told.astype(np.int64)
    matched = _best_match(together)
    worst = np.maximum(real.sum(1), told.sum(1)).sum()
    return float((worst - matched) / max(real.sum(), 1))


def _best_match(together: np.ndarray) -> int:
    """Frames in which the same speaker is told, for the naming for which they are most."""
    from scipy.optimize import linear_sum_assignment

    return int(together[linear_sum_assignment(-together)].sum())


def _grid(turns: Sequence[Turn], duration: float, step: float) -> np.ndarray:
    grid = np.zeros((int(np.ceil(duration / step)), max((turn.speaker for turn in turns), default=0) + 1), bool)
    for turn in turns:
        grid[round(turn.start / step) : round(turn.end / step), turn.speaker] = True
    return grid
