"""What of a text is left to be spoken."""

from __future__ import annotations

import pytest

from backends.embedded.speakable import language_of, readable, without_pictures
from backends.interface import InvalidInput


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("Hi 😀 there 👍🏽", "Hi   there  "),
        ("👨‍👩‍👧 family ❤️", "  family  "),
        ("20 °C © 2026™", "20 °C © 2026™"),
        ("ＡＢＣ １２３！", "ABC 123!"),
        ("soft\u00adhyphen and zero\u200bwidth", "softhyphen and zerowidth"),
        ("〒100 ㈱", "〒100 ㈱"),
        ("", ""),
    ],
)
def test_pictures_go_and_signs_stay(text: str, spoken: str) -> None:
    assert without_pictures(text) == spoken


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Hello there", "latin"),
        ("Windowsを使う", "ja"),
        ("ｶﾀｶﾅ", "ja"),
        ("你好世界", None),
        ("Привет", None),
        ("123 ... 😀", "latin"),
        ("", "latin"),
        ("The word 世界 means world", "latin"),
    ],
)
def test_the_language_is_told_by_the_script(text: str, language: str | None) -> None:
    assert language_of(text) == language


def test_a_few_foreign_letters_are_left_out_with_a_note() -> None:
    text, note = readable("The word 世界 means the world", "en")
    assert text == "The word    means the world"
    assert "2 letters were left out" in note
    assert "Cjk" in note


def test_what_a_language_reads_stays_without_a_note() -> None:
    assert readable("naïve café, 5 µm, πr²", "en") == ("naïve café, 5 µm, πr²", "")
    assert readable("々〆カナかなABC漢字", "ja") == ("々〆カナかなABC漢字", "")


def test_a_text_in_foreign_letters_is_refused() -> None:
    with pytest.raises(InvalidInput, match="cannot read Hangul letters") as refused:
        readable("안녕하세요 hi", "en")
    assert refused.value.param == "input"
