"""Rules on the next token, and when a text is stuck."""

from __future__ import annotations

import numpy as np
import pytest

from backends.whisper.decoding import WindowResult
from backends.whisper.fallback import Thresholds, decode_with_fallback
from backends.whisper.logit_filters import Suppress, SuppressFirst, Timestamps
from backends.whisper.repetition import compression_ratio, looping_tail, without_loop
from backends.whisper.tokenizer import SpecialTokens

SPECIAL = SpecialTokens(
    start=11,
    end=10,
    no_timestamps=19,
    first_timestamp=20,
    previous=14,
    no_speech=15,
    transcribe=12,
    translate=13,
    languages={"en": 16},
)
VOCABULARY = 40
TEXT, TIME = 3, 20


def allowed(chosen: list[int], logits: np.ndarray | None = None, max_initial: int | None = 5) -> set[int]:
    """Tokens left by the timestamp rules."""
    row = np.zeros((1, VOCABULARY), np.float32) if logits is None else logits[None].astype(np.float32)
    Timestamps(SPECIAL, max_initial).apply(row, [chosen])
    return set(np.flatnonzero(np.isfinite(row[0])).tolist())


TEXT_LIKELY = np.where(np.arange(VOCABULARY) < 20, 5.0, -5.0)


def test_an_answer_opens_with_an_early_time() -> None:
    assert allowed([]) == set(range(20, 26))
    assert allowed([], max_initial=None) == set(range(20, 40))


def test_text_follows_the_first_time() -> None:
    assert allowed([22], TEXT_LIKELY) == set(range(19))


def test_after_text_anything_that_is_later() -> None:
    assert allowed([22, TEXT], TEXT_LIKELY) == {*range(19), *range(23, 40)}


def test_a_segment_that_has_ended_is_followed_by_a_time_or_the_end() -> None:
    assert allowed([22, TEXT, 25], TEXT_LIKELY) >= {10, 25, 26}
    assert not allowed([22, TEXT, 25], TEXT_LIKELY) & {*range(10), *range(20, 25)}


def test_a_complete_pair_is_followed_by_text() -> None:
    assert not allowed([22, TEXT, 25, 26], TEXT_LIKELY) & set(range(20, 40))


def test_times_that_are_likelier_together_than_any_text_are_due() -> None:
    logits = np.zeros(VOCABULARY)
    logits[TEXT] = 1.0
    assert allowed([22, TEXT], logits) == set(range(23, 40))


def test_suppressed_tokens_never_come_and_first_ones_only_not_first() -> None:
    logits = np.zeros((2, VOCABULARY), np.float32)
    Suppress([1, 2, 10**6]).apply(logits, [[], [5]])
    SuppressFirst([4, 10**6]).apply(logits, [[], [5]])
    assert np.flatnonzero(np.isinf(logits[0])).tolist() == [1, 2, 4]
    assert np.flatnonzero(np.isinf(logits[1])).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("tokens", "pattern"),
    [
        ([7] * 24, 1),
        ([7] * 23, 0),
        ([1, 2, 3] * 8, 3),
        ([1, 2, 3] * 7, 0),
        ([9, 9, *range(12)] + list(range(12)) * 5, 12),
        (list(range(100)), 0),
        ([], 0),
    ],
)
def test_looping_tails(tokens: list[int], pattern: int) -> None:
    assert looping_tail(tokens) == pattern


def test_a_loop_is_said_once() -> None:
    assert without_loop([5, 6, *[1, 2, 3] * 9]) == [5, 6, 1, 2, 3]
    assert without_loop([1, 2, 3]) == [1, 2, 3]


def test_compression_tells_loops_from_speech() -> None:
    assert compression_ratio("I think so. " * 30) > 2.4
    assert compression_ratio("Anna paints three yellow houses on Monday and then walks home.") < 2.4
    assert compression_ratio("") == 1.0


# --- Temperature fallback ---------------------------------------------------------------------------------------------


class Task:
    """Only what the fallback touches."""


def result(temperature: float, logprob: float = -0.1, no_speech: float = 0.0, looped: bool = False) -> WindowResult:
    return WindowResult([1], [2 * logprob], 0.0, no_speech, temperature, True, looped)


def climbed(answers: dict[float, WindowResult], temperatures: list[float]) -> tuple[list[float], WindowResult]:
    from backends.whisper.decoding import WindowTask

    tried: list[float] = []

    def decode(tasks: list[WindowTask]) -> list[WindowResult]:
        tried.extend(task.temperature for task in tasks)
        return [answers[task.temperature] for task in tasks]

    task = WindowTask(encoder_output=object(), prompt=(1,), start_index=0)
    found = decode_with_fallback([task], [temperatures], Thresholds(), decode, lambda tokens: "words")  # type: ignore[arg-type]
    return tried, found[0]


def test_a_good_answer_is_taken_at_once() -> None:
    tried, found = climbed({0.0: result(0.0)}, [0.0, 0.5])
    assert tried == [0.0]
    assert found.temperature == 0.0


def test_an_unlikely_answer_is_tried_again_until_it_is_good() -> None:
    answers = {0.0: result(0.0, -1.5), 0.2: result(0.2, -1.2), 0.4: result(0.4, -0.5), 0.6: result(0.6)}
    tried, found = climbed(answers, [0.0, 0.2, 0.4, 0.6])
    assert tried == [0.0, 0.2, 0.4]
    assert found.temperature == 0.4


def test_a_loop_is_tried_again_and_the_likeliest_loop_stands() -> None:
    answers = {
        0.0: result(0.0, -0.4, looped=True),
        0.5: result(0.5, -0.2, looped=True),
        1.0: result(1.0, -0.9, looped=True),
    }
    tried, found = climbed(answers, [0.0, 0.5, 1.0])
    assert tried == [0.0, 0.5, 1.0]
    assert found.temperature == 0.5
    assert found.doubtful


def test_where_every_temperature_fails_the_best_attempt_is_the_answer() -> None:
    answers = {
        0.0: result(0.0, -0.1, looped=True),
        0.2: result(0.2, -1.2),
        0.4: result(0.4, -1.1),
        1.0: result(1.0, -3.5),
    }
    tried, found = climbed(answers, [0.0, 0.2, 0.4, 1.0])
    assert tried == [0.0, 0.2, 0.4, 1.0]
    assert found.temperature == 0.4, "likeliest of those that do not repeat themselves"
    assert found.doubtful, "it is no prompt for the next window"


def test_a_good_answer_is_not_doubtful_however_hot() -> None:
    _, found = climbed({0.0: result(0.0, -1.5), 1.0: result(1.0, -0.9)}, [0.0, 1.0])
    assert (found.temperature, found.doubtful) == (1.0, False)


def test_silence_needs_no_fallback() -> None:
    tried, found = climbed({0.0: result(0.0, -2.0, no_speech=0.9)}, [0.0, 0.5])
    assert tried == [0.0]
    assert Thresholds().is_silence(found)


def test_one_temperature_is_no_fallback() -> None:
    assert climbed({0.3: result(0.3, -5.0)}, [0.3])[0] == [0.3]


def test_where_nothing_is_allowed_the_answer_ends() -> None:
    from backends.whisper.decoding import WindowTask, decode_windows

    class Network:
        dims = type("Dims", (), {"target_positions": 8})

        def decode(self, encoder_outputs: list[object], padding: list[int]) -> Network:
            return self

        def feed(self, tokens: np.ndarray, keep: int = 0) -> np.ndarray:
            return np.zeros((1, tokens.shape[1] - keep, VOCABULARY), np.float32)

    task = WindowTask(encoder_output=object(), prompt=(11,), start_index=0)
    found = decode_windows(Network(), SPECIAL, [Suppress(range(VOCABULARY))], [task])  # type: ignore[arg-type]
    assert found[0].ended
    assert found[0].tokens == []
