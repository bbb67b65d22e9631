"""Which words of two hypotheses in a row are certain."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.whisper.live_policy import LocalAgreement
from backends.whisper.tokenizer import WhisperTokenizer


@pytest.fixture(scope="module")
def tokenizer() -> WhisperTokenizer:
    return WhisperTokenizer(Path(__file__).parents[2] / "data" / "whisper_tiny")


def told(tokenizer: WhisperTokenizer, *hypotheses: str, language: str = "en") -> list[str]:
    """What each hypothesis confirms. They are whole, and begin with what is confirmed already."""
    policy = LocalAgreement(tokenizer)
    found = []
    for text in hypotheses:
        known = tokenizer.decode(policy.confirmed)
        assert text.startswith(known)
        before = len(policy.confirmed)
        count = policy.take(tokenizer.encode(text[len(known) :]), language)
        assert len(policy.confirmed) == before + count
        found.append(tokenizer.decode(policy.confirmed[before:]))
    return found


def test_one_hypothesis_confirms_nothing(tokenizer: WhisperTokenizer) -> None:
    assert told(tokenizer, " the fox jumps over") == [""]


def test_what_two_in_a_row_agree_on_is_confirmed_but_for_the_last_word(tokenizer: WhisperTokenizer) -> None:
    assert told(tokenizer, " the fox jump", " the fox jumps over", " the fox jumps over a dog") == [
        "",
        " the fox",
        " jumps over",
    ]
    assert told(tokenizer, " the fox", " the fox") == ["", " the"]


def test_words_that_changed_wait_for_another(tokenizer: WhisperTokenizer) -> None:
    assert told(tokenizer, " a box is", " the fox is here", " the fox is here now") == ["", "", " the fox is here"]


def test_a_comma_belongs_to_its_word(tokenizer: WhisperTokenizer) -> None:
    assert told(tokenizer, " well the dog", " well, the dog", " well, the dog") == ["", "", " well, the"]


def test_nothing_is_confirmed_twice(tokenizer: WhisperTokenizer) -> None:
    assert told(tokenizer, " a b c d", " a b c d", " a b c d e", " a b c d e") == ["", " a b c", " d", ""]
