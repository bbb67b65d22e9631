"""Word ends: punctuation at the end of a word is the pause after it, not a part of it."""

from __future__ import annotations

import numpy as np
import pytest

from backends.interface import Word
from backends.whisper.engine import Whisper
from backends.whisper.onnx.engine import OnnxNetwork
from backends.whisper.timing import TokenGroup, shorten_after_pauses, word_times
from tests.backends.whisper.checkpoints import Reference


def times(*words: list[str]) -> list[Word]:
    """Every token begins 0.1 s after the one before."""
    texts = [text for word in words for text in word]
    numbers = iter(range(len(texts)))
    groups = [TokenGroup("".join(word), tuple(next(numbers) for _ in word)) for word in words]
    starts = (np.arange(len(texts) + 1) / 10).astype(np.float32)
    return word_times(groups, starts, [-0.1] * len(texts), 5.0, texts)


@pytest.mark.parametrize(
    ("tokens", "end"),
    [
        ([" yes"], 5.1),
        ([" yes", "."], 5.1),
        ([" yes", ".", '"'], 5.1),
        ([" fif", "ty", "%"], 5.3),
        ([" 5", "\N{DEGREE SIGN}"], 5.2),
        ([" U", ".", "S", "."], 5.3),
        (["\ufffd", "\ufffd", "\N{IDEOGRAPHIC FULL STOP}"], 5.2),
        (["..."], 5.1),
    ],
)
def test_a_word_ends_where_its_last_sound_ends(tokens: list[str], end: float) -> None:
    (word,) = times(tokens)
    assert (word.start, word.end) == (5.0, pytest.approx(end))
    assert word.word == "".join(tokens).strip()


def test_the_next_word_begins_after_the_pause() -> None:
    first, second = times([" well", ","], [" then", "!"])
    assert (first.end, second.start) == (pytest.approx(5.1), pytest.approx(5.2))
    assert second.end == pytest.approx(5.3)


def said(*words: tuple[str, float, float]) -> list[Word]:
    return [Word(text, start, end, 0.9) for text, start, end in words]


EVEN = [("a", 0.0, 0.3), ("b", 0.3, 0.6), ("c", 0.6, 0.9)]


def test_the_first_word_of_a_sentence_does_not_begin_in_the_pause_before_it() -> None:
    words = said(*EVEN, ("end.", 0.9, 1.2), ("Next", 1.2, 3.0), ("word", 3.0, 4.5))
    (found,) = shorten_after_pauses([words], 0.0)
    assert [(word.start, word.end) for word in found[4:]] == [(2.4, 3.0), (3.0, 4.5)]  # only what opens a sentence
    assert found[:4] == words[:4]


def test_the_first_word_of_a_segment_begins_late_only_after_a_pause() -> None:
    first, near, far = said(*EVEN), said(("soon", 0.9, 1.7)), said(("late", 1.7, 4.0))
    _, soon, late = shorten_after_pauses([first, near, far], 0.0)
    assert soon == near  # too long, but there was no room for a pause of four words
    assert (late[0].start, late[0].end) == (pytest.approx(3.4), 4.0)


def test_slow_speech_is_judged_by_a_median_of_at_most_seven_tenths() -> None:
    ((_, _, word),) = shorten_after_pauses([said(("a", 0, 2), ("b.", 2, 4), ("c", 4, 8))], 0.0)
    assert word.start == pytest.approx(6.6)
    assert shorten_after_pauses([[], said(("a", 1, 1))], 0.0) == [[], said(("a", 1, 1))]


def test_a_window_is_encoded_once_though_its_language_is_unknown(
    multilingual: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backends.whisper.config import read_dims

    model = Whisper(multilingual.folder, OnnxNetwork(multilingual.folder, read_dims(multilingual.folder), max_batch=2))
    encoded: list[int] = []
    encode = OnnxNetwork.encode

    def counted(self: OnnxNetwork, mels: list[np.ndarray]) -> object:
        encoded.append(len(mels))
        return encode(self, mels)

    monkeypatch.setattr(OnnxNetwork, "encode", counted)
    noise = (np.random.default_rng(0).standard_normal(16_000 * 5) * 0.1).astype(np.float32)
    found = model.transcribe(noise, vad=False)
    assert encoded == [1]
    assert found.language in model.special.languages
