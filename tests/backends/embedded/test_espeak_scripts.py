"""The table of scripts against the phonemes of the real library, and what becomes of single texts."""

from __future__ import annotations

import re

import pytest

from backends.embedded.espeak_library import EspeakLibrary, LibraryVoice
from backends.embedded.espeak_scripts import language_of, legible, ordinary_letters, reads

# One word of each script.
WORDS = {
    "ARABIC": "سلام", "ARMENIAN": "բարեւ", "BENGALI": "বাংলা", "BOPOMOFO": "ㄅㄆㄇ", "CYRILLIC": "молоко",
    "DEVANAGARI": "नमस्ते",
    "ETHIOPIC": "ሰላም", "GEORGIAN": "გამარჯობა", "GREEK": "καλημέρα", "GUJARATI": "ગુજરાતી", "GURMUKHI": "ਪੰਜਾਬੀ",
    "HANGUL": "안녕하세요", "HEBREW": "שלום", "HIRAGANA": "ひらがな", "KANNADA": "ಕನ್ನಡ", "KATAKANA": "カタカナ",
    "LATIN": "hello",
    "MALAYALAM": "മലയാളം", "ORIYA": "ଓଡ଼ିଆ", "SINHALA": "සිංහල", "TAMIL": "தமிழ்", "TELUGU": "తెలుగు", "THAI": "ไทย",
}  # fmt: skip
# Languages whose own rules cut a word into pieces, or lack some letters of this one.
UNCLEAR = {("hak", "LATIN"), ("mi", "LATIN"), ("mto", "LATIN"), ("qdb", "LATIN"), ("quc", "LATIN")}


@pytest.fixture(scope="module")
def library() -> EspeakLibrary:
    return EspeakLibrary()


def language(voice: LibraryVoice) -> str:
    return min(voice.languages, key=lambda ranked: ranked[0])[1].split("-")[0]


def is_read(phonemes: str, letters: int) -> bool:
    """Whether these are the sounds of one word rather than of the names or codes of its letters."""
    sounds = phonemes.removesuffix("_|")
    separate = len(sounds.split(" ")) >= letters or len(re.findall(r"_(?=[^|:!]|$)|_:", sounds)) >= letters
    return bool(sounds) and not separate


@pytest.mark.parametrize("script", WORDS)
def test_the_table_says_what_the_library_does(library: EspeakLibrary, script: str) -> None:
    letters = sum(letter.isalpha() for letter in WORDS[script])
    told, measured = {}, {}
    for voice in library.voices():
        if (language(voice), script) not in UNCLEAR:
            assert library.set_voice(voice.identifier)
            told[voice.identifier] = reads(language(voice), script)
            measured[voice.identifier] = is_read(library.phonemes(WORDS[script]), letters)
    assert len(told) > 130
    assert told == measured


def test_chinese_characters_are_read_by_those_that_tell_them_apart(library: EspeakLibrary) -> None:
    for voice in library.voices():
        assert library.set_voice(voice.identifier)
        assert reads(language(voice), "CJK") == (library.phonemes("世") != library.phonemes("界")), voice.identifier


@pytest.mark.parametrize("voice", ["gmw/en-US", "gmw/de", "roa/fr", "jpx/ja", "sit/cmn", "sem/ar", "tai/th"])
def test_a_letter_whose_code_is_said_is_known(library: EspeakLibrary, voice: str) -> None:
    assert library.set_voice(voice)
    assert [library.spells(letter) for letter in "ꙮᠮꓐܫ"] == [True] * 4
    assert [library.spells(letter) for letter in "aïé"] == [False] * 3


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("２０ Ｈｅｌｌｏ", "20 Hello"),
        ("𝔸𝟙 ﬁne ①", "A1 fine 1"),
        ("ｶﾞｷﾞ", "ガギ"),
        ("Ⅷ", "VIII"),
        ("x² ½ 5 µm 1ª", "x² ½ 5 µm 1ª"),
    ],
)
def test_other_forms_of_letters_become_the_plain_ones(text: str, plain: str) -> None:
    assert ordinary_letters(text) == plain


@pytest.mark.parametrize(
    ("text", "language", "left"),
    [
        ("We met in Hà Nội", "en", "We met in Hà Noi"),
        ("Hello, 世界! How are you?", "en", "Hello,  ! How are you?"),
        ("They say שָׁלוֹם to friends of the house", "en", "They say   to friends of the house"),
        ("Привет and welcome to our little house", "en", "  and welcome to our little house"),
        ("おはよう USB です", "ja", "おはよう USB です"),
        ("おはようございます hello みなさん", "ja", "おはようございます   みなさん"),
        ("Grüße 😀 & 5 €", "de", "Grüße 😀 & 5 €"),
    ],
)
def test_what_is_left_of_a_text(library: EspeakLibrary, text: str, language: str, left: str) -> None:
    assert library.set_voice({"en": "gmw/en-US", "ja": "jpx/ja", "de": "gmw/de"}[language])
    found = legible(text, language, library.spells, "it")
    assert found.text == left
    assert len(found.notes) == (" " * 2 in left or left.startswith("  "))


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("hello", None), ("...", None), ("привет", "ru"), ("漢字", "cmn"), ("漢字とかな", "ja"), ("ｶﾅ", "ja"),
        ("The word ありがとう means thank you", None), ("これは USB ケーブルです", "ja"),
    ],
)  # fmt: skip
def test_the_language_is_that_of_most_letters(text: str, language: str | None) -> None:
    assert language_of(text) == language
