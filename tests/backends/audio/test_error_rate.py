"""Errors are counted in words, or in characters where there are no spaces."""

from __future__ import annotations

import pytest

from backends.audio.error_rate import edits, error_rate, units


@pytest.mark.parametrize(
    ("said", "recognized", "errors"),
    [
        ("Open the door.", "open the door", 0),
        ("Open the door.", "open door", 1),
        ("Open the door.", "open a red door", 2),
        ("Open the door.", "", 3),
        ("It's late.", "it’s late now", 1),
    ],
)
def test_word_errors_are_edits(said: str, recognized: str, errors: int) -> None:
    assert edits(units(said, "en"), units(recognized, "en")) == errors


def test_japanese_is_counted_in_characters_without_marks() -> None:
    assert units("「ＡＢＣ、データー。」", "ja") == ["a", "b", "c", "デ", "ー", "タ", "ー"]
    assert error_rate("今日は。", "今日 わ", "ja") == pytest.approx(1 / 3)


def test_more_can_be_recognized_than_was_said() -> None:
    assert error_rate("Hi", "high hello there", "en") == 3.0
    assert error_rate("", "anything", "en") == 1.0
