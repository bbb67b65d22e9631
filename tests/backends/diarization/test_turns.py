"""Votes of windows to turns, and the grids under them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from backends.diarization.networks import FRAME_SAMPLES, WINDOW_SAMPLES, speakers_of
from backends.diarization.turns import Votes, turns_of
from backends.diarization.windows import Grid, cells_of, clean_seconds, voices
from backends.interface import Turn

FRAMES = 589
SECOND = 16_000


def active(*spans: tuple[int, float, float]) -> np.ndarray:
    """Voices of a window: (voice, from, to) in seconds."""
    found = np.zeros((FRAMES, 3), bool)
    for voice, start, end in spans:
        found[round(start * SECOND / FRAME_SAMPLES) : round(end * SECOND / FRAME_SAMPLES), voice] = True
    return found


def test_windows_vote_whatever_they_call_their_voices() -> None:
    votes = Votes(15 * SECOND, 2)
    votes.add(0, active((0, 0, 6), (1, 6, 10)), [0, 1, -1])
    votes.add(5 * SECOND, active((2, 0, 1), (0, 1, 10)), [1, -1, 0])
    found = turns_of(votes.active(), 15, 0.1, 0.1)
    assert [turn.speaker for turn in found] == [0, 1]
    assert [(turn.start, turn.end) for turn in found] == [
        (pytest.approx(0, abs=0.05), pytest.approx(6, abs=0.05)),
        (pytest.approx(6, abs=0.05), pytest.approx(15, abs=0.1)),
    ]


def test_exclusive_turns_never_overlap() -> None:
    votes = Votes(10 * SECOND, 2)
    votes.add(0, active((0, 1, 6), (1, 4, 9)), [0, 1, -1])
    both = turns_of(votes.active(), 10, 0, 0)
    assert both[0].end > both[1].start
    alone = turns_of(votes.exclusive(), 10, 0, 0)
    assert all(one.end <= other.start for one, other in pairwise(alone))


def test_pauses_and_slips_are_smoothed() -> None:
    votes = Votes(10 * SECOND, 2)
    votes.add(0, active((0, 1, 2), (0, 2.2, 4), (1, 5, 5.05)), [0, 1, -1])
    (turn,) = turns_of(votes.active(), 10, 0.3, 0.1)
    assert turn == Turn(pytest.approx(1, abs=0.05), pytest.approx(4, abs=0.05), 0)


@pytest.mark.parametrize("seconds", [0.1, 9.99, 10, 10.01, 12.5, 61.3])
@pytest.mark.parametrize("spacing", [1.0, 2.5, 5.0])
def test_windows_cover_everything_and_blocks_wait_for_them(seconds: float, spacing: float) -> None:
    grid = Grid(round(seconds * SECOND), round(spacing * SECOND))
    assert grid.start(grid.windows - 1) + WINDOW_SAMPLES >= grid.length
    assert grid.windows == 1 or grid.start(grid.windows - 2) + WINDOW_SAMPLES < grid.length
    for block in range(grid.blocks):
        first, end = block * WINDOW_SAMPLES, (block + 1) * WINDOW_SAMPLES
        reaching = [n for n in range(grid.windows) if grid.start(n) < end and grid.start(n) + WINDOW_SAMPLES > first]
        assert list(grid.within(block)) == reaching
        done = next(count for count in range(grid.windows + 1) if grid.complete(count) > block)
        assert done > reaching[-1]
    assert grid.complete(grid.windows) == grid.blocks


def test_a_voice_is_known_by_where_it_speaks_alone() -> None:
    window = active((0, 0, 4), (1, 3, 4), (2, 6, 7))
    chosen = voices(window)
    assert clean_seconds(window) == pytest.approx([3, 0, 1], abs=0.05)
    assert chosen[:, 0].sum() == pytest.approx(3 * SECOND / FRAME_SAMPLES, abs=3)
    assert (chosen[:, 1] == window[:, 1]).all()  # never alone: its speech over others' counts


def test_cells_lie_where_their_frames_do() -> None:
    window = active((0, 2, 3))
    cells = cells_of(window, 0, 125, 1280)
    assert np.flatnonzero(cells[:, 0]) * 0.08 == pytest.approx(np.arange(2, 3, 0.08), abs=0.09)
    moved = cells_of(window, round(1.6 * SECOND), 125, 1280)
    assert np.flatnonzero(moved[:, 0])[0] == np.flatnonzero(cells[:, 0])[0] - 20
    assert not cells_of(window, -12 * SECOND, 125, 1280).any()


def test_seven_classes_are_sets_of_speakers() -> None:
    scores = np.log(np.eye(7, dtype=np.float32) + 1e-3)[None]
    expected = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]]
    assert speakers_of(scores)[0].astype(int).tolist() == expected
    assert speakers_of(np.array([[[1.0, 0.0, 1.0]]], np.float32))[0].astype(int).tolist() == [[1, 0, 1]]
