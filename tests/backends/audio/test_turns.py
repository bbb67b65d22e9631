"""Turns of live audio: where they begin and end to the sample, whoever ends them, and how little is kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.audio.turns import SampleBuffer, Turn, TurnCutter
from backends.audio.vad import FRAME
from backends.interface import Samples
from backends.live import (
    CommitRefused,
    Feed,
    LiveAudio,
    LiveClear,
    LiveCleared,
    LiveCommit,
    LiveEnd,
    LiveRequest,
    LiveSettings,
    TurnCommitted,
    TurnDetection,
    TurnStarted,
    TurnStopped,
)

RATE = 16_000
MANUAL = LiveRequest(turn_detection=None)


def level(frames: Samples) -> list[float]:
    """Speech as loud as each frame's first sample."""
    return [float(value) for value in frames[::FRAME]]


def cutter(request: LiveRequest | None = None) -> TurnCutter:
    return TurnCutter(request or LiveRequest(), level)


def audio(*parts: tuple[float, int]) -> LiveAudio:
    """Parts of a level and a number of frames."""
    return LiveAudio(np.concatenate([np.full(frames * FRAME, value, np.float32) for value, frames in parts]))


def fed(cut: TurnCutter, *feeds: Feed) -> TurnCutter:
    for feed in feeds:
        cut.feed(feed)
    return cut


def spans(turns: Sequence[Turn]) -> list[tuple[int, int | None]]:
    return [(turn.start, turn.end) for turn in turns]


def test_a_turn_starts_with_its_padding_and_ends_with_its_silence() -> None:
    cut = fed(cutter(), audio((0.0, 40), (1.0, 50), (0.0, 40)))
    start, end = 40 * FRAME - 4800, 90 * FRAME + 8000
    assert cut.events == [
        TurnStarted(0, start / RATE),
        TurnStopped(0, end / RATE),
        TurnCommitted(0, start / RATE, end / RATE),
    ]
    assert spans(cut.committed) == [(start, end)]
    turn = cut.committed[0]
    assert len(turn.samples()) == end - start
    assert turn.samples()[4800 : 4800 + 50 * FRAME].all()
    assert turn.samples().sum() == 50 * FRAME


@pytest.mark.parametrize(("padding", "silence"), [(0, 200), (1, 33), (1000, 32), (250, 0)])
def test_times_are_those_of_the_request_to_the_sample(padding: int, silence: int) -> None:
    detection = TurnDetection(prefix_padding_ms=padding, silence_duration_ms=silence)
    cut = fed(cutter(LiveRequest(turn_detection=detection)), audio((0.0, 40), (1.0, 10), (0.0, 40)))
    assert spans(cut.committed) == [(40 * FRAME - padding * 16, 50 * FRAME + silence * 16)]


def test_the_padding_never_reaches_into_the_turn_before_or_before_the_beginning() -> None:
    request = LiveRequest(turn_detection=TurnDetection(prefix_padding_ms=2000, silence_duration_ms=64))
    cut = fed(cutter(request), audio((1.0, 10), (0.0, 5), (1.0, 10), (0.0, 5)))
    assert spans(cut.committed) == [(0, 12 * FRAME), (12 * FRAME, 27 * FRAME)]


def test_a_click_is_no_turn_and_a_short_pause_ends_none() -> None:
    cut = fed(cutter(), audio((0.0, 20), (1.0, 2), (0.0, 20)))
    assert cut.events == []
    fed(cut, audio((1.0, 10), (0.0, 10), (1.0, 10)))
    assert [type(event) for event in cut.events] == [TurnStarted]


def test_speech_goes_on_a_little_below_the_threshold() -> None:
    cut = fed(cutter(), audio((0.45, 20)))
    assert cut.open is None
    fed(cut, audio((0.5, 1), (0.36, 100)))
    assert cut.open is not None
    fed(cut, audio((0.34, 20)))
    assert len(cut.committed) == 1


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=30))
def test_pieces_of_any_length_give_the_same_turns(lengths: list[int]) -> None:
    whole = audio((0.0, 30), (1.0, 25), (0.0, 30)).samples
    cut = cutter()
    first = 0
    for length in [*lengths, len(whole)]:
        cut.feed(LiveAudio(whole[first : first + length]))
        first += length
    assert cut.committed[0].samples().tolist() == fed(cutter(), LiveAudio(whole)).committed[0].samples().tolist()
    assert cut.events == fed(cutter(), LiveAudio(whole)).events


def test_without_detection_the_client_ends_every_turn() -> None:
    cut = fed(cutter(MANUAL), audio((0.0, 10)), LiveCommit(), audio((1.0, 10), (0.0, 1)), LiveCommit())
    assert spans(cut.committed) == [(0, 10 * FRAME), (10 * FRAME, 21 * FRAME)]
    assert [type(event) for event in cut.events] == [TurnCommitted, TurnCommitted]


def test_a_commit_of_too_little_is_refused_and_keeps_it() -> None:
    cut = fed(cutter(MANUAL), LiveAudio(np.ones(1500, np.float32)), LiveCommit())
    assert cut.take_events() == [CommitRefused(1500 / RATE)]
    fed(cut, LiveAudio(np.ones(100, np.float32)), LiveCommit(), LiveCommit())
    assert cut.events == [TurnCommitted(0, 0.0, 0.1), CommitRefused(0.0)]


def test_a_commit_under_detection_ends_the_turn_at_once_and_the_silence_after_it_is_none() -> None:
    cut = fed(cutter(), audio((1.0, 20)), LiveAudio(np.ones(100, np.float32)), LiveCommit(), LiveCommit())
    assert cut.take_events() == [
        TurnStarted(0, 0.0),
        TurnCommitted(0, 0.0, (20 * FRAME + 100) / RATE),
        CommitRefused(0.0),
    ]
    fed(cut, audio((0.0, 50)), LiveCommit())
    assert cut.events == [CommitRefused(0.0)]


def test_clear_forgets_the_open_turn_only_and_its_number() -> None:
    cut = fed(cutter(MANUAL), audio((1.0, 10)), LiveCommit(), audio((1.0, 10)), LiveClear(), audio((1.0, 5)))
    assert cut.take_events()[-1] == LiveCleared()
    assert cut.open is not None
    assert (cut.open.number, cut.open.start, len(cut.committed)) == (2, 20 * FRAME, 1)
    detected = fed(cutter(), audio((0.0, 5), (1.0, 10)), LiveClear(), audio((0.0, 60), (1.0, 10)))
    assert detected.open is not None
    assert detected.open.number == 1


def test_a_turn_that_reaches_its_greatest_length_is_committed_and_speech_goes_on_in_the_next() -> None:
    cut = fed(cutter(LiveRequest(max_turn_seconds=1.0)), audio((1.0, 70), (0.0, 20)))
    ends = [16_000, 32_000, 70 * FRAME + 8000]
    assert spans(cut.committed) == list(zip([0, *ends[:-1]], ends, strict=True))
    cut = fed(cutter(LiveRequest(turn_detection=None, max_turn_seconds=0.5)), LiveAudio(np.ones(20_000, np.float32)))
    assert spans(cut.committed) == [(0, 8000), (8000, 16_000)]
    assert cut.open is not None
    assert cut.open.seconds == 0.25


def test_settings_count_from_where_they_come() -> None:
    late = LiveRequest(turn_detection=TurnDetection(silence_duration_ms=960))
    cut = fed(cutter(), audio((1.0, 10)), LiveSettings(late), audio((0.0, 40)))
    assert spans(cut.committed) == [(0, 40 * FRAME)]
    cut = fed(cutter(), audio((1.0, 10)), LiveSettings(MANUAL), audio((0.0, 40)))
    assert not cut.committed
    assert cut.open is not None
    assert cut.open.seconds == 50 * FRAME / RATE


def test_a_turn_that_detection_takes_over_is_told_as_started() -> None:
    cut = fed(cutter(MANUAL), audio((1.0, 10)), LiveSettings(LiveRequest()), audio((0.0, 40)))
    assert [type(event) for event in cut.events] == [TurnStarted, TurnStopped, TurnCommitted]


def test_the_end_drops_an_open_turn_and_all_that_comes_later() -> None:
    cut = fed(cutter(MANUAL), audio((1.0, 10)), LiveCommit(), audio((1.0, 10)), LiveEnd(), audio((1.0, 10)))
    assert cut.over
    assert cut.open is None
    assert spans(cut.committed) == [(0, 10 * FRAME)]


def test_an_hour_of_silence_is_not_kept() -> None:
    cut = cutter()
    minute = LiveAudio(np.zeros(60 * RATE, np.float32))
    most = 0
    for _ in range(60):
        cut.feed(minute)
        most = max(most, cut.held)
    assert most <= 4800 + FRAME
    assert cut.position >= 3600 * RATE - FRAME


def test_an_hour_of_speech_is_kept_until_it_is_transcribed_only() -> None:
    request = LiveRequest(max_turn_seconds=20.0)
    cut, talk = cutter(request), audio((1.0, 400), (0.0, 20))
    for _ in range(3600 * RATE // len(talk.samples)):
        cut.feed(talk)
        cut.committed.clear()
        cut.take_events()
        assert cut.held <= 20 * RATE + 4800 + FRAME


def test_a_buffer_reads_what_is_left_of_it() -> None:
    buffer = SampleBuffer(100)
    for first in range(0, 30, 10):
        buffer.append(np.arange(100 + first, 110 + first, dtype=np.float32))
    buffer.drop_before(115)
    assert (buffer.start, buffer.end, len(buffer)) == (115, 130, 15)
    assert buffer.read(110, 118).tolist() == [115, 116, 117]
    buffer.drop_before(200)
    assert buffer.read(0, 300).tolist() == []
