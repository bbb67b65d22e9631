"""Words of other scripts within a text of Latin letters, with the real espeak-ng and stand-in readings."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from backends.embedded.espeak_phonemes import EspeakPhonemizer
from backends.embedded.foreign_words import ENGLISH_SOUNDS, MixedFrontEnd, readable_scripts
from backends.embedded.speakable import readable
from backends.interface import InvalidInput, ModelUnavailable


class Readings:
    """Japanese that is spelled out."""

    def phonemes(self, text: str) -> str:
        return f"<{text}>"


@cache
def phonemizer() -> EspeakPhonemizer:
    return EspeakPhonemizer()


def front_end(japanese: Any = Readings) -> MixedFrontEnd:
    return MixedFrontEnd(str.upper, phonemizer(), japanese, ENGLISH_SOUNDS)


@pytest.mark.parametrize(
    ("text", "phonemes"),
    [
        ("Hello, you 2!", "HELLO, YOU 2!"),
        ("Hello 世界, you", "HELLO  <世界>, YOU"),
        ("the 食べる、that", "THE  <食べる>, THAT"),
        ("カタカナ and ひらがな。", "<カタカナ> AND  <ひらがな>."),
        ("", ""),
    ],
)
def test_japanese_words_are_read_by_its_readings(text: str, phonemes: str) -> None:
    assert " ".join(front_end().phonemes(text).split()) == " ".join(phonemes.split())


def test_other_scripts_are_read_by_their_languages() -> None:
    assert "pɹjivjˈet" in front_end().phonemes("say Привет")
    assert "ˈɐnnjʌŋ" in front_end().phonemes("안녕")


def test_chinese_is_read_without_tones_where_it_cannot_be_japanese() -> None:
    spoken = front_end().phonemes("hi 你们")
    assert spoken.startswith("HI")
    assert not any(char.isdigit() or char in "˥˧˩" for char in spoken)
    assert len(spoken) > len("HI  ")


def test_without_readings_kanji_are_chinese_and_kana_silent() -> None:
    def missing() -> Any:
        raise ModelUnavailable("no readings")

    assert front_end(missing).phonemes("世界") not in ("", "<世界>")
    assert front_end(missing).phonemes("かな") == ""


def test_scripts_that_are_read_are_not_left_out() -> None:
    scripts = readable_scripts(japanese=True)
    assert readable("The word 世界 and かな", "en", scripts) == ("The word 世界 and かな", "")
    assert "Hiragana" in readable("The words of mine: かな", "en", readable_scripts(japanese=False))[1]
    with pytest.raises(InvalidInput, match="cannot read Hangul"):
        readable("안녕하세요 hi", "en", scripts)
