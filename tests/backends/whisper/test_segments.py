"""Tokens to segments, segments to a whole recording, stretches of speech, and the times of words."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from backends.interface import Chunking
from backends.whisper.decoding import WindowResult
from backends.whisper.segments import read_window
from backends.whisper.speech_segments import SpeechSegment, VadOptions, find_speech, whole
from backends.whisper.timing import alignment, best_path, token_starts
from backends.whisper.tokenizer import SpecialTokens, WhisperTokenizer
from backends.whisper.transcription import Transcription
from tests.backends.whisper.checkpoints import make_checkpoint

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
    assert read([time(1), 5, 6], 12.0)[0][0][:2] == (1.0, 12.0)


def test_times_never_pass_the_audio() -> None:
    pieces, advance = read([time(0), 1, time(9), time(9), 2, time(20)], 8.0)
    assert all(start <= end <= 8.0 for start, end, _ in pieces)
    assert advance == 8.0


def test_a_segment_behind_the_audio_was_invented() -> None:
    pieces, _ = read([time(0), 1, time(2), time(3), 2, time(4)], 2.5)
    assert [(start, end) for start, end, _ in pieces] == [(0, 2)]
    assert [piece[:2] for piece in read([time(1), 1, time(2), time(2), 2], 0.8)[0]] == [(0.0, 0.8)]
    assert [piece[:2] for piece in read([time(1), 1, time(2)], 0.8)[0]] == [(0.0, 0.8)]


def test_the_next_window_begins_at_the_very_sample(tmp_path: Path) -> None:
    """16.06 s are 803 steps of 320 samples, though 0.02 and 16.06 are no binary fractions."""
    tokenizer = WhisperTokenizer(make_checkpoint(tmp_path).folder)
    special = SpecialTokens(1, 2, None, T + 300, None, None, None, None, {})
    samples = np.zeros(40 * 16_000, np.float32)
    for step in (803, 811, 819):
        recording = Transcription(samples, whole(samples), 480_000, tokenizer, special)
        window = recording.next_windows(1)[0]
        tokens = [T + 300, 65, T + 300 + step, T + 300 + step, 66]
        recording.accept(window, WindowResult(tokens, [0.0] * len(tokens)))
        assert recording.next_windows(1)[0].start == step * 320


def test_a_window_always_moves_on() -> None:
    assert read([time(0), 1, time(0), time(0)])[1] == 30.0


# --- Stretches --------------------------------------------------------------------------------------------------------


class Detector:
    """Speech wherever the samples are not zero."""

    def new_state(self) -> Detector:
        return self

    def probabilities(self, samples: np.ndarray) -> np.ndarray:
        frames = np.zeros(-(-len(samples) // 512) * 512, np.float32)
        frames[: len(samples)] = samples
        return (np.abs(frames.reshape(-1, 512)).max(axis=1) > 0).astype(np.float32) * 0.9


def speech_segments(
    parts: list[tuple[float, bool]], vad_options: VadOptions | None = None, window: float = 30.0
) -> list[tuple[float, float]]:
    """parts: seconds and whether somebody speaks; answers in seconds."""
    samples = np.concatenate([np.full(int(seconds * 16_000), float(speech), np.float32) for seconds, speech in parts])
    found: Iterator[SpeechSegment] = find_speech(samples, Detector(), vad_options or VadOptions(), window)  # type: ignore[arg-type]
    return [
        (round(speech_segment.start / 16_000, 1), round(speech_segment.end / 16_000, 1)) for speech_segment in found
    ]


def test_silence_has_no_segments() -> None:
    assert speech_segments([(10, False)]) == []
    assert list(whole(np.zeros(0, np.float32))) == []


def test_speech_keeps_some_padding() -> None:
    assert speech_segments([(2, False), (3, True), (2, False)]) == [(1.7, 5.3)]


def test_neighbours_share_a_window_and_far_ones_do_not() -> None:
    assert speech_segments([(3, True), (1, False), (3, True)]) == [(0.0, 7.0)]
    assert speech_segments([(20, True), (2, False), (20, True)]) == [(0.0, 20.3), (21.7, 42.0)]
    assert speech_segments([(3, True), (4, False), (3, True)]) == [(0.0, 3.3), (6.7, 10.0)]


def test_speech_without_a_pause_is_one_long_segment() -> None:
    assert speech_segments([(100, True)]) == [(0.0, 100.0)]


def test_a_click_is_not_speech() -> None:
    assert speech_segments([(1, False), (0.03, True), (1, False)]) == []


def test_the_request_says_what_a_pause_is() -> None:
    parts = [(2, True), (0.6, False), (2, True)]
    short = VadOptions.of(Chunking(silence_duration_ms=200, prefix_padding_ms=0), 0.5)
    long = VadOptions.of(Chunking(silence_duration_ms=1000, prefix_padding_ms=0), 0.5)
    assert len(speech_segments(parts, short, window=3.0)) == 2
    assert len(speech_segments(parts, long, window=3.0)) == 1
    assert VadOptions.of(None, 0.7).threshold == 0.7


def test_segments_are_in_order_and_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    parts = [(float(rng.uniform(0.2, 9)), bool(number % 2)) for number in range(60)]
    found = speech_segments(parts)
    assert all(left[1] <= right[0] for left, right in pairwise(found))


# --- Word times -------------------------------------------------------------------------------------------------------


def test_the_best_path_is_the_best_of_all() -> None:
    """Against every way of dealing out the columns."""
    rng = np.random.default_rng(1)
    for least in ([0, 0, 0], [2, 1, 3], [0, 8, 0], [3, 3, 3]):
        score = rng.standard_normal((3, 9))
        ways = [
            (0, a, b)
            for a in range(10)
            for b in range(a, 10)
            if a >= least[0] and b - a >= least[1] and 9 - b >= least[2]
        ]
        sums = [score[0, :a].sum() + score[1, a:b].sum() + score[2, b:].sum() for _, a, b in ways]
        assert tuple(best_path(score, least)) == ways[int(np.argmax(sums))]


def test_tokens_begin_where_attention_moves_on() -> None:
    weights = np.full((2, 5, 110), 1e-4, np.float32)
    for row, first in enumerate([10, 40, 70]):
        weights[:, row + 1, first : first + 20] = 0.05
    matrix = alignment(weights, positions=100)
    assert matrix.shape == (5, 100)
    starts = token_starts(matrix[1:4], [" a", " b", " c"], 0.0, 2.0)
    assert starts.shape == (4,)
    assert starts == pytest.approx([0.2, 0.8, 1.4, 1.8], abs=0.1)
    within = token_starts(matrix[1:4], [" a", " b", " c"], 0.5, 1.5)
    assert within == pytest.approx([0.5, 0.8, 1.4, 1.5], abs=0.1)


def test_attention_beyond_the_audio_does_not_count() -> None:
    weights = np.random.default_rng(0).random((2, 4, 60)).astype(np.float32)
    weights /= weights.sum(axis=-1, keepdims=True)
    more = np.concatenate([weights * np.float32([[[0.9], [0.5], [0.1], [0.7]]]), weights], axis=-1)
    assert alignment(more, 60) == pytest.approx(alignment(weights, 60), abs=1e-4)


def test_no_word_is_without_time() -> None:
    """Attention that tells nothing still leaves every word its share; punctuation may have none."""
    rows = np.zeros((6, 50), np.float32)
    rows[5] = 1.0
    starts = token_starts(rows, [" Thomas", " zählt", " vier", " rote", " Vögel", "."], 0.0, 1.0)
    assert (np.diff(starts[:6]) > 0.05).all()
    assert token_starts(rows, ["a"] * 6, 0.3, 0.3).tolist() == pytest.approx([0.3] * 7)
    assert token_starts(rows, ["a"] * 6, 0.0, 0.0).tolist() == [0.0] * 7
    assert token_starts(rows[:0], [], 0.2, 0.4).shape == (1,)
