"""The language of a text in Latin letters: named only where it is clear."""

from __future__ import annotations

import pytest

from backends.spoken_text.languages import LatinLanguages

SPOKEN = ("en", "de", "fr", "es", "it", "pt", "nl", "pl", "sv", "da", "fi", "tr", "cs", "hu", "ja", "cmn", "xx")


@pytest.fixture(scope="module")
def languages() -> LatinLanguages:
    return LatinLanguages(SPOKEN)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Please open the front door before you leave.", "en"),
        ("Ich hätte gern drei Brötchen.", "de"),
        ("Was ist das?", "de"),
        ("Il fait beau aujourd'hui.", "fr"),
        ("Buenos días", "es"),
        ("Vorrei un caffè e un bicchiere d'acqua.", "it"),
        ("Dzień dobry", "pl"),
        ("Hvordan går det?", "da"),  # shares its likelihood with Norwegian and Swedish
    ],
)
def test_a_clear_text_is_named(languages: LatinLanguages, text: str, language: str) -> None:
    assert languages.of(text) == language


@pytest.mark.parametrize(
    "text",
    [
        "Paris", "OK", "Hello.", "ABC 123", "Pizza Margherita, please", "Karl Marx wrote Das Kapital.", "", "...",
        "今日は良い天気です", "Привет, как дела?", "東京 OK", "npm install foo bar",
    ],
)  # fmt: skip
def test_a_doubtful_text_and_another_script_is_not(languages: LatinLanguages, text: str) -> None:
    assert languages.of(text) in ("", "en")


def test_the_documentation_is_english(languages: LatinLanguages) -> None:
    """A wrong guess spoils a text that was fine: there must be next to none."""
    words = __doc__.split() + str(LatinLanguages.__doc__).split() + str(LatinLanguages.of.__doc__).split()
    pairs = [" ".join(words[start : start + 3]) for start in range(len(words) - 2)]
    assert {languages.of(few) for few in pairs} <= {"", "en"}


def test_only_languages_that_are_spoken_are_named() -> None:
    assert LatinLanguages(("en", "de")).of("Il fait beau aujourd'hui et demain aussi.") in ("", "en", "de")
