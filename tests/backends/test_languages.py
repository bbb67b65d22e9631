"""One table of languages for the gateway and the recognisers."""

from __future__ import annotations

import pytest

from backends.languages import DETECT, LANGUAGES, language_code, language_name, wants_detection


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("en", "en"),
        ("EN", "en"),
        ("en-US", "en"),
        ("pt_BR", "pt"),
        ("zh_TW", "zh"),
        ("english", "en"),
        (" German ", "de"),
        ("Mandarin", "zh"),
        ("haitian creole", "ht"),
        ("haw", "haw"),
        ("yue", "yue"),
        ("jv", "jw"),
        ("nb", "no"),
        ("NB", "no"),
        ("nb-NO", "no"),
        ("iw", "he"),
        ("iw_IL", "he"),
        ("eng", "en"),
        ("ENG", "en"),
        ("deu", "de"),
        ("ger", "de"),
        ("zho", "zh"),
        ("chi", "zh"),
        ("cmn-Hans-CN", "zh"),
        ("jpn", "ja"),
        ("jav", "jw"),
        ("nob", "no"),
        ("fil-PH", "tl"),
        ("klingon", None),
        ("tlh", None),
        ("e", None),
        ("engl", None),
        ("", None),
        ("auto", None),
        ("und", None),
    ],
)
def test_languages_by_code_tag_or_name(text: str, code: str | None) -> None:
    assert language_code(text) == code


def test_every_language_has_a_code_of_two_letters_or_three_and_a_name_of_its_own() -> None:
    assert (len(LANGUAGES), len(set(LANGUAGES.values()))) == (100, 100)
    assert list(LANGUAGES)[:3] == ["en", "zh", "de"]
    assert list(LANGUAGES)[-1] == "yue"
    for code, name in LANGUAGES.items():
        assert language_code(code) == language_code(name) == code


def test_names_as_the_api_writes_them() -> None:
    assert (language_name("ja"), language_name("xx"), language_name(None)) == ("japanese", "xx", "")


@pytest.mark.parametrize("text", [*sorted(DETECT), "AUTO", " Und ", ""])
def test_words_for_detection(text: str) -> None:
    assert wants_detection(text)


@pytest.mark.parametrize("text", ["en", "automatic", "mul-de"])
def test_other_words_ask_for_no_detection(text: str) -> None:
    assert not wants_detection(text)
