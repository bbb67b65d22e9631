"""Tokens to segments, segments to a whole recording, stretches of speech, and the times of words."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from backends.interface import Chunking
from backends.whisper.decode import WindowResult
from backends.whisper.segments import read_window
from backends.whisper.stretches import Gate, Stretch, speech_stretches, whole
from backends.whisper.words import _cheapest_path, token_starts

T = 100  # the first timestamp token


def time(seconds: float) -> int:
    return T + round(seconds / 0.02)


def read(tokens: list[int], seconds: float = 30.0) -> tuple[list[tuple[float, float, tuple[int, ...]]], float]:
    reading = read_window(WindowResult(tokens, [0.0] * len(tokens)), T, seconds)
    return [(round(p.start, 2), round(p.end, 2), p.tokens) for p in reading.pieces], round(reading.advance, 2)


def test_pairs_of_times_make_segments_and_a_cut_one_comes_again() -> None:
    tokens = [time(0), 1, 2, time(2), time(2.5), 3, time(4), time(4.2)]
    pieces, advance = read(tokens)
    assert [(start, end) for start, end, _ in pieces] == [(0, 2), (2.5, 4)]
    assert advance == 4.0


def test_a_single_time_at_the_end_says_that_nothing_was_cut() -> None:
    pieces, advance = read([time(0), 1, time(2), time(2.5), 3, time(4)])
    assert [(start, end) for start, end, _ in pieces] == [(0, 2), (2.5, 4)]
    assert advance == 30.0


def test_one_segment_takes_its_times_or_the_window() -> None:
    assert read([time(1), 5, 6, time(3)]) == ([(1.0, 3.0, (time(1), 5, 6, time(3)))], 30.0)
    assert read([5, 6], 12.0)[0][0][:2] == (0.0, 12.0)
    assert read([]) == ([], 30.0)


def test_times_never_pass_the_audio() -> None:
    pieces, advance = read([time(0), 1, time(9), time(9), 2, time(20)], 8.0)
    assert all(start <= end <= 8.0 for start, end, _ in pieces)
    assert advance == 8.0


def test_a_window_always_moves_on() -> None:
    assert read([time(0), 1, time(0), time(0)])[1] == 30.0


# --- Stretches ---------------------------------------------------------------------------------------------------------


class Detector:
    """Speech wherever the samples are not zero."""

    def listen(self) -> Detector:
        return self

    def probabilities(self, samples: np.ndarray) -> np.ndarray:
        frames = np.zeros(-(-len(samples) // 512) * 512, np.float32)
        frames[: len(samples)] = samples
        return (np.abs(frames.reshape(-1, 512)).max(axis=1) > 0).astype(np.float32) * 0.9


def stretches(parts: list[tuple[float, bool]], gate: Gate | None = None, window: float = 30.0) -> list[tuple[float, float]]:
    """parts: seconds and whether somebody speaks; answers in seconds."""
    samples = np.concatenate([np.full(int(seconds * 16_000), float(speech), np.float32) for seconds, speech in parts])
    found: Iterator[Stretch] = speech_stretches(samples, Detector(), gate or Gate(), window)  # type: ignore[arg-type]
    return [(round(stretch.start / 16_000, 1), round(stretch.end / 16_000, 1)) for stretch in found]


def test_silence_has_no_stretches() -> None:
    assert stretches([(10, False)]) == []
    assert list(whole(np.zeros(0, np.float32))) == []


def test_speech_keeps_some_padding() -> None:
    assert stretches([(2, False), (3, True), (2, False)]) == [(1.7, 5.3)]


def test_neighbours_share_a_window_and_far_ones_do_not() -> None:
    assert stretches([(3, True), (1, False), (3, True)]) == [(0.0, 7.0)]
    assert stretches([(20, True), (2, False), (20, True)]) == [(0.0, 20.3), (21.7, 42.0)]
    assert stretches([(3, True), (4, False), (3, True)]) == [(0.0, 3.3), (6.7, 10.0)]


def test_speech_without_a_pause_is_one_long_stretch() -> None:
    assert stretches([(100, True)]) == [(0.0, 100.0)]


def test_a_click_is_not_speech() -> None:
    assert stretches([(1, False), (0.03, True), (1, False)]) == []


def test_the_request_says_what_a_pause_is() -> None:
    parts = [(2, True), (0.6, False), (2, True)]
    short = Gate.of(Chunking(silence_duration_ms=200, prefix_padding_ms=0), 0.5)
    long = Gate.of(Chunking(silence_duration_ms=1000, prefix_padding_ms=0), 0.5)
    assert len(stretches(parts, short, window=3.0)) == 2
    assert len(stretches(parts, long, window=3.0)) == 1
    assert Gate.of(None, 0.7).threshold == 0.7


def test_stretches_are_in_order_and_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    parts = [(float(rng.uniform(0.2, 9)), bool(number % 2)) for number in range(60)]
    found = stretches(parts)
    assert all(left[1] <= right[0] for left, right in pairwise(found))


# --- Word times --------------------------------------------------------------------------------------------------------


def test_the_cheapest_path_is_the_one_of_dynamic_programming() -> None:
    rng = np.random.default_rng(1)
    cost = rng.standard_normal((7, 12))
    best = np.full((8, 13), np.inf)
    best[0, 0] = 0
    for row in range(1, 8):
        for column in range(1, 13):
            best[row, column] = cost[row - 1, column - 1] + min(
                best[row - 1, column - 1], best[row - 1, column], best[row, column - 1]
            )
    rows, columns = _cheapest_path(cost)
    assert cost[rows, columns].sum() == pytest.approx(best[7, 12])
    assert (rows[0], columns[0], rows[-1], columns[-1]) == (0, 0, 6, 11)
    assert set(np.diff(rows)) <= {0, 1}
    assert set(np.diff(columns)) <= {0, 1}


def test_tokens_begin_where_attention_moves_on() -> None:
    """A row of the weights belongs to the token fed in, and looks at where the next one is said."""
    weights = np.full((2, 6, 100), 1e-4, np.float32)
    for row, first in enumerate([0, 0, 10, 40, 70]):
        weights[:, row + 1, first : first + 20] = 0.05
    starts = token_starts(weights, before=2, count=3, positions=100)
    assert starts.shape == (4,)
    assert starts[0] == 0.0
    assert starts[1:] == pytest.approx([0.2, 0.8, 1.4], abs=0.1)
    assert (np.diff(starts) >= 0).all()
