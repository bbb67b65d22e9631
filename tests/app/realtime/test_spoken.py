"""Which words of a spoken answer were heard when it was cut off."""

from __future__ import annotations

import pytest

from app.realtime.formats import AudioFormat
from app.realtime.spoken import Spoken

FORMAT = AudioFormat("audio/pcm", 24_000)
SECOND = 48_000  # bytes


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [(0, ""), (500, "Good"), (1000, "Good day."), (1500, "Good day. How"), (2000, "Good day. How are you?")],
)
def test_words_that_began_in_time_stay(milliseconds: int, words: str) -> None:
    spoken = Spoken(FORMAT, [(0, "Good day. "), (SECOND, "How are you?")], 2 * SECOND)
    assert spoken.text_until(milliseconds) == words
    assert (spoken.text, spoken.milliseconds) == ("Good day. How are you?", 2000)


def test_sound_without_words_can_be_cut_as_well() -> None:
    assert Spoken(FORMAT, [], SECOND).text_until(0) == ""
    assert Spoken(FORMAT, [], SECOND).text_until(5000) == ""
