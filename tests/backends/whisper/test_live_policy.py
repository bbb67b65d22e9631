"""Which words of two hypotheses in a row are certain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backends.whisper.live_policy import AlignAtt, LocalAgreement
from backends.whisper.network import Floats
from backends.whisper.tokenizer import WhisperTokenizer


@pytest.fixture(scope="module")
def tokenizer() -> WhisperTokenizer:
    return WhisperTokenizer(Path(__file__).parents[2] / "data" / "whisper_tiny")


def unasked() -> Floats:
    raise AssertionError("the attention costs a pass through the decoder")


def told(tokenizer: WhisperTokenizer, *hypotheses: str, language: str = "en") -> list[str]:
    """What each hypothesis confirms. They are whole, and begin with what is confirmed already."""
    policy = LocalAgreement(tokenizer)
    found = []
    for text in hypotheses:
        known = tokenizer.decode(policy.confirmed)
        assert text.startswith(known)
        before = len(policy.confirmed)
        count = policy.take(tokenizer.encode(text[len(known) :]), language, unasked)
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


WORDS = (" the", " dog", " is", " here")


def confirmed(tokenizer: WhisperTokenizer, *positions: int, width: int = 100) -> str:
    """What one hypothesis of WORDS confirms, each of which is about one of `width` positions."""
    policy = AlignAtt(tokenizer)
    lengths = [len(tokenizer.encode(word)) for word in WORDS]
    tokens = tokenizer.encode("".join(WORDS))
    rows = np.eye(width, dtype=np.float32)[np.repeat(positions, lengths)]
    count = policy.take(tokens, "en", lambda: rows)
    assert policy.confirmed == tokens[:count]
    return tokenizer.decode(policy.confirmed)


def test_attention_confirms_what_lies_before_the_end_of_the_audio(tokenizer: WhisperTokenizer) -> None:
    assert confirmed(tokenizer, 5, 20, 40, 60) == " the dog is", "the last word may not be whole"
    assert confirmed(tokenizer, 5, 20, 40, 80) == " the dog"
    assert confirmed(tokenizer, 5, 20, 75, 76) == " the"
    assert confirmed(tokenizer, 80, 81, 82, 83) == ""


def test_attention_that_jumps_far_back_confirms_nothing(tokenizer: WhisperTokenizer) -> None:
    assert confirmed(tokenizer, 10, 350, 360, 20, width=500) == ""
    assert confirmed(tokenizer, 10, 350, 200, 360, width=500) == " the dog is"


def test_a_hypothesis_without_words_confirms_nothing(tokenizer: WhisperTokenizer) -> None:
    assert AlignAtt(tokenizer).take([], "en", lambda: np.zeros((0, 100), np.float32)) == 0
