"""The synthetic speaker of the miniature's vocabulary."""

from __future__ import annotations

import numpy as np

from scripts.fixtures.tiny_speech import say_alone, speaker

LINES = [("Peter counts five white stones today.", "gmw/en", 160), ("Anna kauft zwei rote Boote.", "gmw/de+f2", 150)]


def test_a_line_sounds_the_same_whatever_this_process_has_said_before() -> None:
    first = say_alone(LINES)
    speaker().say("Etwas ganz anderes.", "gmw/de+m3", 300)
    second = say_alone(LINES)
    assert len(first) == len(LINES)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.samples, other.samples)
        assert one.word_starts == other.word_starts
        assert list(one.word_starts) == sorted(one.word_starts)
        assert len(one.samples) > 16_000
