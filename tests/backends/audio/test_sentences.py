"""Where text may be cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.audio.sentences import LONGEST, sentences


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
