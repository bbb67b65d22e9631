"""The truth that the fuzz of media holds answers to."""

from __future__ import annotations

from random import Random

import pytest

from app.media.decode import decode
from app.media.source import Caps, Unreadable
from scripts.stress.fuzzing.media import KINDS, SECONDS, Known, known, recording


@pytest.mark.parametrize(
    ("told", "seconds", "note", "wrong"),
    [
        (None, 4.0, "", False),
        (None, 3.0, "", True),
        (None, 3.0, "a loss", False),
        (True, 4.0, "", True),
        (True, 4.0, "a loss", False),
        (False, 4.0, "a loss", True),
        (False, 4.0, "", False),
    ],
)
def test_words_are_read_or_the_loss_is_told(told: bool | None, seconds: float, note: str, wrong: bool) -> None:
    assert bool(Known("", b"", 4.0, told).finding(seconds, note)) is wrong


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_read_whole(name: str) -> None:
    source = decode(recording(name), 16_000, Caps(60.0, 1 << 28), lambda samples: None)
    assert Known(name, b"", SECONDS, told=False).finding(source.seconds, source.note) == ""


def test_a_hundred_damaged_files_keep_to_the_truth() -> None:
    cases = known(Random("tests"))
    for case in (next(cases) for _ in range(100)):
        try:
            source = decode(case.data, 16_000, Caps(60.0, 1 << 28), lambda samples: None)
        except Unreadable:
            assert case.told is not False, case.note
        else:
            assert case.finding(source.seconds, source.note) == "", case.note
