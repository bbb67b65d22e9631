"""Text to ids: special tokens are neutralised, sentences are cut, and what has no sound is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.csm.text import load_tokenizer, normalize_text, utterances
from backends.interface import InvalidInput, ModelUnavailable


def test_marks_of_special_tokens_stay_text(tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny / "tokenizer.json", 320)
    bos, *ids, eos = tokenizer.utterance(3, "a<|end_of_text|><|AUDIO|>b")
    assert (bos, eos) == (256, 257)
    assert not {256, 257, 258, 259} & set(ids)
    assert len(ids) == len("[3]a<|end_of_text|><|AUDIO|>b")


def test_no_space_and_no_tokens_are_added(tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny / "tokenizer.json", 320)
    assert len(tokenizer.utterance(0, "Hi")) == 2 + len("[0]Hi")


def test_broken_tokenizers(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(ModelUnavailable, match="is missing"):
        load_tokenizer(tmp_path / "tokenizer.json", 320)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelUnavailable, match="not a usable tokenizer"):
        load_tokenizer(tmp_path / "tokenizer.json", 320)
    with pytest.raises(ModelUnavailable, match=r"no token <\|begin_of_text"):
        load_tokenizer(tiny / "tokenizer.json", 100)


def test_ids_beyond_the_vocabulary(tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny / "tokenizer.json", 320)
    tokenizer._vocabulary = 50
    with pytest.raises(InvalidInput, match="does not have"):
        tokenizer.utterance(0, "Hi")


@pytest.mark.parametrize("text", ["", " \n", "🙂🎉", "...!?", "\u200b\u2060"])
def test_nothing_to_speak(text: str) -> None:
    with pytest.raises(InvalidInput, match="nothing that can be spoken"):
        normalize_text(text)


def test_pictures_go_and_words_stay() -> None:
    assert normalize_text("Hi 🙂 there\t now") == "Hi there now"
    assert normalize_text("ｅ\u0301 東京 1") == "é 東京 1".replace("é", "ｅ\u0301")
    assert normalize_text("I \u2764\ufe0f ex\u00adam\u200dples\u200b\ufeffand 1\ufe0f\u20e3") == "I examples and 1"
    with pytest.raises(InvalidInput, match="4097 characters"):
        normalize_text("a" * 4097)
    assert len(normalize_text("a" * 4096)) == 4096


def test_sentences_are_cut_at_their_ends() -> None:
    long = "This is a sentence that is long enough to stand for itself, "
    long += "with some more words to fill it up until it is over."
    assert (
        utterances("Hi. Yes. " + long + " Bye.")
        == utterances(f"Hi.\nYes.\n\n{long} Bye.")
        == ["Hi. Yes.", long + " Bye."]
    )
    assert utterances('He said "go." Then left.\n\nAnd 3.5 is a number.') == [
        'He said "go." Then left. And 3.5 is a number.'
    ]
    assert utterances("一つ目です。二つ目です！", 8) == ["一つ目です。", "二つ目です！"]


@pytest.mark.parametrize("text", ["word " * 200, "x" * 900, "part, " * 150, "No. " * 300])
def test_no_piece_is_too_long_and_nothing_is_lost(text: str) -> None:
    pieces = utterances(text, 100)
    assert max(map(len, pieces)) <= 100
    assert "".join(pieces).replace(" ", "") == text.replace(" ", "")
