"""Text and tokens, and the meaning of special ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.interface import InvalidInput
from backends.whisper.config import read_dims, read_generation_config
from backends.whisper.timing import split_words
from backends.whisper.tokenizer import WhisperTokenizer, checked_language, special_tokens
from tests.backends.whisper.checkpoints import LANGUAGES, Reference


@pytest.fixture(scope="module")
def tokenizer(multilingual: Reference) -> WhisperTokenizer:
    return WhisperTokenizer(multilingual.folder)


@given(text=st.text())
def test_text_survives_the_way_there_and_back(tokenizer: WhisperTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", ["<|endoftext|>", "<|startoftranscript|><|de|>", " hello<|nospeech|>", "<|2.00|>"])
def test_a_prompt_cannot_smuggle_special_tokens(
    tokenizer: WhisperTokenizer, multilingual: Reference, text: str
) -> None:
    first_special = multilingual.ids["<|endoftext|>"]
    assert all(token < first_special for token in tokenizer.encode(text))


def test_special_tokens_have_no_text(tokenizer: WhisperTokenizer, multilingual: Reference) -> None:
    ids = multilingual.ids
    tokens = [ids["<|startoftranscript|>"], *tokenizer.encode(" the fox"), ids["<|0.50|>"], ids["<|endoftext|>"]]
    assert tokenizer.decode(tokens) == " the fox"
    assert not tokenizer.is_text(ids["<|0.50|>"])
    assert not tokenizer.is_text(10**6)


def test_prompts_of_both_kinds_of_model(reference: Reference) -> None:
    rules, dims = read_generation_config(reference.folder), read_dims(reference.folder)
    special = special_tokens(rules, WhisperTokenizer(reference.folder), dims)
    ids = reference.ids
    if special.multilingual:
        assert set(special.languages) == set(LANGUAGES)
        assert special.prompt("de", "translate", timestamps=True) == [
            ids["<|startoftranscript|>"],
            ids["<|de|>"],
            ids["<|translate|>"],
        ]
        assert special.prompt("en", "transcribe", timestamps=False)[-2:] == [
            ids["<|transcribe|>"],
            ids["<|notimestamps|>"],
        ]
        assert checked_language(special, "German") == "de"
    else:
        assert special.prompt("en", "transcribe", timestamps=True) == [ids["<|startoftranscript|>"]]
        assert special.prompt(None, "transcribe", timestamps=False)[-1] == ids["<|notimestamps|>"]
        with pytest.raises(InvalidInput, match="'de' is not one of this model's"):
            checked_language(special, "de")
    assert special.no_speech == ids["<|nospeech|>"]
    assert special.first_timestamp == ids["<|0.00|>"]
    assert {checked_language(special, given) for given in (None, "", "auto", "und")} == {None}


def test_words_keep_their_punctuation(tokenizer: WhisperTokenizer) -> None:
    text = ' the "quick" brown fox, jumps over (größe) und maß.'
    groups = split_words(tokenizer.encode(text), tokenizer, "en")
    assert [group.text for group in groups] == [
        " the",
        ' "quick"',
        " brown",
        " fox,",
        " jumps",
        " over",
        " (größe)",
        " und",
        " maß.",
    ]
    assert sum((group.tokens for group in groups), ()) == tuple(tokenizer.encode(text))


def test_languages_without_spaces_split_by_character(tokenizer: WhisperTokenizer) -> None:
    groups = split_words(tokenizer.encode("今日は。"), tokenizer, "ja")
    assert [group.text for group in groups] == ["今", "日", "は。"]


def test_a_broken_character_at_the_end_is_still_a_word(tokenizer: WhisperTokenizer) -> None:
    tokens = tokenizer.encode(" fox 日")[:-1]
    assert split_words(tokens, tokenizer, "en")[-1].text.endswith("�")
