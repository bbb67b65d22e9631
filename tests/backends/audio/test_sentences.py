"""Where text may be cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.audio.sentences import LONGEST, packed_sentences, sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Pi is 3.14 exactly. Not.", ["Pi is 3.14 exactly.", "Not."]),
        ("Bread, e.g. white bread. Milk.", ["Bread, e.g. white bread.", "Milk."]),
        ('"Stop." He stopped.', ['"Stop."', "He stopped."]),
        ("今日は。元気？はい", ["今日は。", "元気？", "はい"]),
        ("line one\nline two", ["line one", "line two"]),
        ("  \n\n ", []),
        ("", []),
    ],
)
def test_sentences_end_where_they_end(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_a_long_sentence_is_cut_at_a_comma_before_a_space() -> None:
    first = "word " * 50 + "end, "
    found = sentences(first + "word " * 50)
    assert found[0] == first.strip()
    assert all(len(part) <= LONGEST for part in found)


def test_a_wall_of_letters_is_cut_hard() -> None:
    assert [len(part) for part in sentences("a" * 700)] == [LONGEST, LONGEST, 100]


@given(st.text(max_size=1500))
def test_nothing_is_lost_or_invented(text: str) -> None:
    found = sentences(text)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(part.strip() == part and 0 < len(part) <= LONGEST for part in found)


def test_sentences_are_packed_and_never_too_long() -> None:
    text = (
        "One is short. Two, as well! Is three? "
        + "Word " * 30
        + "and, finally, some clauses; of which there are three."
    )
    pieces = packed_sentences(text, 60, 60)
    assert all(len(piece) <= 60 for piece in pieces)
    assert pieces[0] == "One is short. Two, as well! Is three?"
    assert " ".join(pieces).split() == text.split()


@pytest.mark.parametrize(
    ("text", "characters", "expected"),
    [
        ("これは一。これは二！「三？」四。", 6, ["これは一。", "これは二！", "「三？」四。"]),
        ("Version 3.5 is out. Dr. No", 20, ["Version 3.5 is out.", "Dr. No"]),
        ("あ" * 50, 20, ["あ" * 20, "あ" * 20, "あ" * 10]),
        ("?!... 🙂", 20, []),
    ],
)
def test_sentences_of_many_scripts(text: str, characters: int, expected: list[str]) -> None:
    assert packed_sentences(text, characters, characters) == expected


@given(st.text(max_size=200), st.integers(20, 80))
def test_no_letter_is_lost_in_splitting(text: str, characters: int) -> None:
    letters = [char for char in text if char.isalnum()]
    assert [
        char for piece in packed_sentences(text, characters, characters) for char in piece if char.isalnum()
    ] == letters
