"""Phonemes from the real espeak-ng library, and Kokoro's spelling of them."""

from __future__ import annotations

import pytest

from backends.embedded.espeak_phonemes import EspeakPhonemizer
from backends.embedded.japanese_phonemes import kana_phonemes
from backends.embedded.kokoro_phonemes import LANGUAGES, KokoroEspeakFrontEnd


@pytest.fixture(scope="module")
def phonemizer() -> EspeakPhonemizer:
    return EspeakPhonemizer()


@pytest.mark.parametrize(
    ("text", "phonemes"),
    [
        ("Hello, world.", "həlˈoʊ, wˈɜːld."),
        ("Wait... what?!", "wˈeɪt… wˌʌt?"),
        ("Meet Dr. No.", "mˈiːt dˈɑːktɚ nˈoʊ."),
        ("This: fine!", "ðˈɪs: fˈaɪn!"),
        ("yes; no", "jˈɛs; nˈoʊ"),
        ("", ""),
        ("...", ""),
        (" \n\t", ""),
        ("a\0b", "ɐ bˈiː"),
    ],
)
def test_marks_are_put_back_behind_their_clause(phonemizer: EspeakPhonemizer, text: str, phonemes: str) -> None:
    assert phonemizer.ipa(text, "en-us") == phonemes


def test_numbers_are_read_as_a_whole(phonemizer: EspeakPhonemizer) -> None:
    spoken = phonemizer.ipa("It is 1,234 or 3.14 at 12:30.", "en-us")
    assert "," not in spoken
    assert ":" not in spoken
    assert "θˈaʊzənd" in spoken
    assert "pɔɪnt" in spoken


def test_words_of_another_language_leave_no_switch_marks(phonemizer: EspeakPhonemizer) -> None:
    assert "(" not in phonemizer.ipa("le weekend et le feedback", "fr")


def test_an_unknown_voice_is_an_error(phonemizer: EspeakPhonemizer) -> None:
    with pytest.raises(ValueError, match="klingon-xx"):
        phonemizer.ipa("Hello", "klingon-xx")


@pytest.mark.parametrize(
    ("language", "text", "phonemes"),
    [
        ("a", "My chair, today.", "mI ʧˈɛɹ, tədˈA."),
        ("a", "joyful water", "ʤˈYfᵊl wˈɔTəɹ"),
        ("b", "My chair, today.", "mI ʧˈɛː, tədˈA."),
    ],
)
def test_kokoro_spells_english_with_one_letter_for_a_diphthong(
    phonemizer: EspeakPhonemizer, language: str, text: str, phonemes: str
) -> None:
    assert KokoroEspeakFrontEnd(phonemizer, language).phonemes(text) == phonemes


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_of_kokoro_has_a_voice_in_espeak(phonemizer: EspeakPhonemizer, language: str) -> None:
    assert KokoroEspeakFrontEnd(phonemizer, language).phonemes("a")


@pytest.mark.parametrize(
    ("kana", "phonemes"),
    [
        ("キョー", "kʲoː"),
        ("ガッコー", "ɡaʔkoː"),
        ("シンブン", "ɕimbɯɴ"),
        ("エンピツ", "empʲiʦɨ"),
        ("アンナイ", "annai"),
        ("ホンカク", "hoŋkakɯ"),
        ("コンニャク", "koɲɲakɯ"),
        ("ハロー", "haɾoː"),
        ("ヴァイオリン", "vaioɾʲiɴ"),
        ("ティッシュ", "tʲiʔɕɨ"),
        ("あっ", "aʔ"),
        ("", ""),
        ("abc", ""),
    ],
)
def test_kana_become_phonemes(kana: str, phonemes: str) -> None:
    assert kana_phonemes(kana) == phonemes
