"""Speech that the decoder left out at the end of a window: when it is looked for, and where the next window begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.interface import Placement, Segment, TranscriptionRequest
from backends.whisper.backend import WhisperBackend
from backends.whisper.decoding import WindowResult
from backends.whisper.left_out import LeftOut, last_word_time
from backends.whisper.speech_segments import SpeechSegment
from backends.whisper.tokenizer import SpecialTokens, WhisperTokenizer
from backends.whisper.transcription import Transcription, Window
from tests.backends.whisper.checkpoints import Reference, make_checkpoint
from tests.backends.whisper.test_backend import ScriptedNetwork, files
from tests.backends.whisper.test_segments import Detector
from tests.support.drive import run

T = 100  # the first timestamp token
SECOND = 16_000
PARTS = ((0.0, 2.0), (3.0, 9.0), (10.0, 20.0))  # of a window of 20 s, somebody speaks


def time(seconds: float) -> int:
    return T + round(seconds / 0.02)


def result(*tokens: int, **how: Any) -> WindowResult:
    return WindowResult(list(tokens), [-0.5] * len(tokens), end_logprob=-0.5, **how)


def left_out(found: WindowResult, speech: Sequence[tuple[float, float]] = PARTS) -> LeftOut:
    return LeftOut(found, speech, T, 20.0, lambda tokens: " word" * len(tokens))


def attended_at(*seconds: float) -> np.ndarray:
    """An alignment of one token each."""
    rows = np.zeros((len(seconds), 1000), np.float32)
    for row, at in zip(rows, seconds, strict=True):
        row[round(at / 0.02)] = 1.0
    return rows


SPARSE = result(time(0), 1, 2, time(18), time(18))  # two words that claim to last 18 s
EARLY = result(time(0), 1, 2, time(2.2))  # two words, and an end at their end
FULL = result(time(0), *range(1, 40), time(20))


def test_too_few_words_and_speech_behind_the_last_one_are_suspect() -> None:
    assert left_out(SPARSE).suspected
    assert left_out(EARLY).suspected
    assert not left_out(FULL).suspected


@pytest.mark.parametrize(
    "found",
    [
        result(time(0), 1, 2, time(18), time(18), looped=True),
        result(time(0), 1, 2, time(18), doubtful=True),
        result(time(0), time(18)),
        result(),
        result(time(0), 1, 2, time(2), time(2), 3, 4),  # cut by the window: the rest comes again anyway
    ],
)
def test_other_answers_are_not_suspect(found: WindowResult) -> None:
    assert not left_out(found).suspected


def test_without_a_speech_detector_nothing_is_suspect() -> None:
    assert not left_out(SPARSE, ()).suspected


def test_pauses_are_not_left_out_speech() -> None:
    assert not left_out(EARLY, ((0.0, 2.0), (10.0, 11.0))).suspected


def test_the_answer_is_cut_at_the_pause_behind_the_last_word() -> None:
    cut = left_out(SPARSE).cut(attended_at(0.5, 1.5))
    assert cut.tokens == [time(0), 1, 2, time(3.0), time(3.0)]
    assert len(cut.logprobs) == len(cut.tokens)
    assert cut.avg_logprob == pytest.approx(SPARSE.avg_logprob)
    assert cut.rest == 18.0


def test_the_answer_is_cut_at_its_own_end_where_that_comes_first() -> None:
    cut = left_out(EARLY).cut(attended_at(0.5, 1.5))
    assert cut.tokens == [time(0), 1, 2, time(2.2), time(2.2)]
    assert cut.rest == 20.0


def test_earlier_segments_stay() -> None:
    found = result(time(0), 1, time(2), time(3), 2, time(20))
    cut = left_out(found).cut(attended_at(1.0, 8.0))
    assert cut.tokens == [time(0), 1, time(2), time(3), 2, time(10), time(10)]


@pytest.mark.parametrize(
    ("found", "attended"),
    [
        (SPARSE, attended_at(0.5, 12.0)),  # slow, but said to the end
        (EARLY, attended_at(0.5, 19.0)),  # the end is not true
    ],
)
def test_slow_speech_and_untrue_times_are_no_loss(found: WindowResult, attended: np.ndarray) -> None:
    assert left_out(found).cut(attended) is found


def test_a_window_is_not_cut_to_shreds() -> None:
    found = result(time(0), 1, time(0.5))
    assert left_out(found, ((0.0, 20.0),)).cut(attended_at(0.2)) is found


def test_the_last_word_is_found_in_the_order_of_time() -> None:
    words = [" a", " b", " c", " d"]
    assert last_word_time(attended_at(0.5, 1.0, 1.5, 2.0), words) == pytest.approx(2.0)
    assert last_word_time(attended_at(0.5, 9.0, 1.0, 1.5), words) == pytest.approx(1.5)
    assert last_word_time(attended_at(0.5, 1.0, 1.5, 9.0), [*words[:3], "."]) == pytest.approx(1.5)
    assert last_word_time(attended_at(0.5), ["."]) == pytest.approx(20.0)


# --- A whole recording ------------------------------------------------------------------------------------------------


@pytest.fixture
def recording(tmp_path: Path) -> Transcription:
    tokenizer = WhisperTokenizer(make_checkpoint(tmp_path).folder)
    special = SpecialTokens(1, 2, None, T, None, None, None, None, {})
    spoken = tuple((int(start * SECOND), int(end * SECOND)) for start, end in PARTS)
    segment = SpeechSegment(0, 20 * SECOND, speech=spoken)
    return Transcription(np.zeros(20 * SECOND, np.float32), iter([segment]), 30 * SECOND, tokenizer, special)


def second_window(recording: Transcription) -> Window:
    """The one that begins where the first one's answer was cut."""
    first = recording.next_windows(1)[0]
    rest = recording.left_out(first, SPARSE)
    assert rest is not None
    recording.accept(first, rest.cut(attended_at(0.5, 1.5)))
    second = recording.next_windows(1)[0]
    assert (second.start, second.length) == (3 * SECOND, 17 * SECOND)
    assert second.context == ()
    return second


def test_what_was_left_out_is_decoded_again(recording: Transcription) -> None:
    second = second_window(recording)
    answer = result(time(0), *range(35, 70), time(17))
    assert recording.left_out(second, answer) is None
    recording.accept(second, answer)
    segments = list(recording.finished_segments())
    assert [(one.start, one.end) for one in segments] == [(0.0, 3.0), (3.0, 20.0)]
    assert recording.next_windows(1) == []
    assert recording.over


def test_a_second_hearing_that_gives_nothing_good_changes_nothing(recording: Transcription) -> None:
    second = second_window(recording)
    recording.accept(second, result(time(0), 40, 41, time(17), doubtful=True))
    assert [one.end for one in recording.finished_segments()] == [3.0]
    assert recording.next_windows(1)[0].start == 18 * SECOND


def test_silence_in_a_second_hearing_goes_on_where_the_first_would_have(recording: Transcription) -> None:
    recording.skip(second_window(recording))
    third = recording.next_windows(1)[0]
    assert third.start == 18 * SECOND
    recording.skip(third)
    assert recording.next_windows(1) == []


@pytest.fixture
def backend(multilingual: Reference, monkeypatch: pytest.MonkeyPatch) -> WhisperBackend:
    """Says the same two seconds of text of every window."""
    made = WhisperBackend()
    made.load(files(multilingual), Placement(dtype="float32"))
    made.whisper.network = ScriptedNetwork(multilingual)
    made.whisper.rules = replace(made.whisper.rules, suppressed=())
    monkeypatch.setattr(made.whisper, "_detector", Detector())
    return made


def test_a_decoder_that_ends_early_is_asked_until_the_speech_is_over(backend: WhisperBackend) -> None:
    samples = np.full(7 * SECOND, 0.1, np.float32)
    events = run(backend, TranscriptionRequest(samples, language="en"))[0]
    ends = [event.end for event in events if isinstance(event, Segment)]
    assert ends == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    ungated = run(backend, TranscriptionRequest(samples, language="en", options={"vad": False}))[0]
    assert [event.end for event in ungated if isinstance(event, Segment)] == [1.0, 2.0]
