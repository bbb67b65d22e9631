"""What is written short is said in full."""

from __future__ import annotations

import pytest

from backends.spoken_text.reader import read

ENGLISH = {
    "See http://localhost:8080/docs.": "See localhost port 8080 slash docs.",
    "Open Mon-Fri, 10am-5pm or 10:30-11:45.": "Open Monday to Friday, 10 a.m. to 5 p.m. or 10 30 to 11 45.",
    "Fri, Mar 5 and Sept. 3 and 5 Dec 2024": "Friday, March 5 and September 3 and 5 December 2024",
    "Apples, pears, etc. are fruit.": "Apples, pears, et cetera are fruit.",
    "Vol. II, ch. 4, Apt. 5B": "Volume 2, chapter 4, Apartment 5B",
    "call getUserName, not iPhone": "call get User Name, not iPhone",
    "in /usr/local/bin and ~/notes": "in slash usr slash local slash bin and ~/notes",
    "card 4111 1111 1111 1111": "card 4 1 1 1, 1 1 1 1, 1 1 1 1, 1 1 1 1",
    "5€, 5 $, USD 1,000, 100 EUR": "5 euros, 5 dollars, 1,000 US dollars, 100 euros",
    "$10/month, $5/hr": "10 dollars per month, 5 dollars per hour",
    "-5°C, it is -3": "minus 5 degrees Celsius, it is minus 3",
    "x² and 10^-3 and 6.02e23": "x squared and 10 to the power of minus 3 and 6.02 times 10 to the power of 23",
    "5>3, 2<4": "5 is greater than 3, 2 is less than 4",
    "3½ and 10x faster": "3 and a half and 10 times faster",
    "a 3:2 ratio, Matt. 5:3, 16:9": "a 3 to 2 ratio, Matt. 5 3, 16 to 9",
    "07/04/24, 2024/03/05 at 00:00": "July 4th, 2024, March 5th, 2024 at midnight",
    "Fine :) thanks <3": "Fine thanks",
    "5 ft 3 in, 12 in. long": "5 feet 3 inches, 12 inches long",
    "at 100 MB/s": "at 100 megabytes per second",
    "ask @anna": "ask at anna",
    "the v2.3 of Version v2.4": "the version 2.3 of Version 2.4",
}
JAPANESE = {
    "営業は8:00-17:00です": "営業は8時から17時です",
    "100m²の㈱山田": "100平方メートルの株式会社山田",
    "x²+3": "xの2乗プラス3",
    "https://example.com:8080/a": "exampleドットcomポート8080スラッシュa",
}


def _said(text: str, language: str) -> str:
    return " ".join(piece.text for piece in read(text, language).pieces)


@pytest.mark.parametrize("text", ENGLISH)
def test_english(text: str) -> None:
    assert _said(text, "en") == ENGLISH[text]


@pytest.mark.parametrize("text", JAPANESE)
def test_japanese(text: str) -> None:
    assert _said(text, "ja") == JAPANESE[text]


@pytest.mark.parametrize(
    "text",
    ["He marched in Mar del Plata.", "well-known, 5-a-side", "a.b and c", "and/or he/she/they", "I sat on 3-2"],
)
def test_what_only_looks_so_stays(text: str) -> None:
    assert _said(text, "en") == text
