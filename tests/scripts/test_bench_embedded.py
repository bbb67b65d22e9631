"""The arithmetic of the benchmark of the embedded engines."""

from __future__ import annotations

import pytest

from scripts.bench_embedded import CHARACTERS, LONG_TEXT, word_errors


@pytest.mark.parametrize(
    ("said", "recognized", "errors"),
    [
        ("Open the door.", "open the door", (0, 3)),
        ("Open the door.", "open door", (1, 3)),
        ("Open the door.", "open a red door", (2, 3)),
        ("Open the door.", "", (3, 3)),
        ("It's late.", "its late now", (2, 2)),
    ],
)
def test_word_errors_are_edits(said: str, recognized: str, errors: tuple[int, int]) -> None:
    assert word_errors(said, recognized) == errors


def test_the_long_text_is_long_enough() -> None:
    assert len(LONG_TEXT) >= CHARACTERS
