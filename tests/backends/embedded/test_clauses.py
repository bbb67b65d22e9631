"""Where a neural voice's text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.embedded.clauses import clauses


def test_the_first_piece_is_the_first_clause() -> None:
    text = "Good evening, ladies and gentlemen, and welcome to the annual meeting of our society, which is held today."
    pieces = list(clauses(text))
    assert pieces[0] == "Good evening,"
    assert len(pieces) > 1
    assert " ".join(pieces) == text


def test_pieces_grow_with_what_has_been_spoken() -> None:
    text = "One two three four, five six seven eight, nine ten eleven, twelve thirteen, fourteen fifteen, sixteen. " * 3
    lengths = [len(piece) for piece in clauses(text)]
    assert lengths[0] < 20
    assert max(lengths) > 40
    assert all(length <= 2 * max(lengths[:index]) + 20 for index, length in enumerate(lengths) if index)


@pytest.mark.parametrize(
    "text",
    [
        "Dr. Smith met Mr. Brown.",
        "It costs 1,234 dollars.",
        "We meet at 12:30 today.",
        "St. Paul is no. 3 of them.",
        "J. S. Bach wrote it.",
    ],
)
def test_abbreviations_and_numbers_are_not_cut(text: str) -> None:
    assert list(clauses(text)) == [text]


def test_japanese_is_cut_at_its_own_marks() -> None:
    assert list(clauses("明日の朝は早く起きて、駅まで歩いて行きます。「そうですか。」")) == [
        "明日の朝は早く起きて、",
        "駅まで歩いて行きます。",
        "「そうですか。」",
    ]


@given(st.text(alphabet="ab、。,. !?\n「」1あ", max_size=400))
def test_nothing_but_white_space_is_lost(text: str) -> None:
    assert "".join("".join(clauses(text)).split()) == "".join(text.split())
