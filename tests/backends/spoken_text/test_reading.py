"""What a person reads of a text that was written for the eye."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.spoken_text import reading
from backends.spoken_text.reading import Piece, read


def said(text: str, language: str = "en") -> str:
    return " ".join(" ".join(piece.text.split()) for piece in read(text, language).pieces)


@pytest.mark.parametrize("text", ["...", "---", "?!", "—", "\u200b\u200d", "***", "👍", "# ", "\n---\n===\n", "「」"])
def test_marks_alone_say_nothing(text: str) -> None:
    assert read(text, "en").pieces == ()


@pytest.mark.parametrize("text", ["%", "5", "é", "€", "あ", "ß!"])
def test_signs_that_are_words_are_said(text: str) -> None:
    assert read(text, "").pieces


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("# Heading\n\nText", "Heading. Text"),
        ("Is this it?\n======\nYes", "Is this it? Yes"),
        ("some **bold**, *it*, ***both***, ~~old~~ and `code`", "some bold, it, both, old and code"),
        ("**Note:** __init__ of snake_case", "Note: init of snake case"),
        ("2*3*4 and 5 * 6 and a < b > c", "2*3*4 and 5 * 6 and a < b > c"),
        ("- one\n- [x] two\n  * three!\n1. four", "one. two. three! 1, four."),
        ("> a quote\n>> inside", "a quote inside"),
        ("| name | age |\n|:---|---:|\n| Bob | 5 |", "name, age. Bob, 5."),
        ("See [the docs](https://a.example/x_(y)) and ![a cat](cat.png).[^1]", "See the docs and a cat."),
        ("See [it][ref].\n\n[ref]: https://a.example/x", "See it."),
        ("これは**太字**です！！", "これは太字です！"),
        ("<p>One &amp; two</p><br/>three", "One and two three"),
    ],
)
def test_markup_is_read_and_not_spelled(text: str, spoken: str) -> None:
    assert said(text) == spoken


@pytest.mark.parametrize(
    ("text", "language", "spoken"),
    [
        ("See https://www.example.com/docs.", "en", "See example dot com slash docs."),
        ("Visit example.com, please", "en", "Visit example dot com, please"),
        ("ask bob.smith@mail.example.org now", "en", "ask bob dot smith at mail dot example dot org now"),
        ("詳細はhttps://example.com/docsを", "ja", "詳細はexampleドットcomスラッシュdocsを"),
        ("Siehe www.beispiel.de", "de", "Siehe beispiel Punkt de"),
        ("Patrz https://example.com", "pl", "Patrz example.com"),
        ("version 1.2.3 of node.js at 10.0.0.1", "en", "version 1.2.3 of node.js at 10.0.0.1"),
    ],
)
def test_addresses_are_spoken(text: str, language: str, spoken: str) -> None:
    assert said(text, language) == spoken


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("It costs $5.50, €3 million or $1.", "It costs 5 dollars 50 cents, 3 million euros or 1 dollar."),
        ("5 km, 1 kg, 25°C", "5 kilometers, 1 kilogram, 25 degrees Celsius"),
        ("3.5GB, 80 km/h, 50%", "3.5 gigabytes, 80 kilometers per hour, 50 percent"),
        ("on 2026-11-25 at 10:30", "on November 25th, 2026 at 10 30"),
        ("at 9:05 pm, 10:00 or 0:15", "at 9 oh 5 p.m., 10 o'clock or 0 15"),
        ("Item #1, e.g. this & that", "Item number 1, for example this and that"),
        ("pages 10–20, ~5", "pages 10 to 20, about 5"),
        ("5'11\" and 10,000 sq ft", "5 foot 11 and 10,000 square feet"),
        ("on 3/4/2026, 25/12/2025, 99/99/2026", "on March 4th, 2026, December 25th, 2025, 99/99/2026"),
        ("2026-11-30T12:00:00Z", "November 30th, 2026 12 o'clock UTC"),
        ("1/2 cup, 3/4, 1 1/2 cups, 24/7, 9/11", "one half cup, 3 quarters, 1 and a half cups, 24 7, 9 11"),
        ("+1 (555) 010-9999, 555-0199", "plus 1, 5 5 5, 0 1 0, 9 9 9 9, 5 5 5, 0 1 9 9"),
        (
            "10-20 people, 5%–10%, 3-1, 978-3-16-148410-0",
            "10 to 20 people, 5 percent to 10 percent, 3-1, 978-3-16-148410-0",
        ),
        ("the 1990s, '90s and 2000s", "the 19 nineties, nineties and two thousands"),
        ("in 1998, 1905, 1900, 2026; 1,998 and 1998.5", "in 19 98, 19 oh 5, 1900, 2026; 1,998 and 1998.5"),
        ("World War II, Henry VIII, Malcolm X, I", "World War 2, Henry the 8th, Malcolm X, I"),
        ("x^2 + y^3 = 10^6", "x squared + y cubed = 10 to the power of 6"),
        ("a -> b w/o C# or C++", "a to b without C sharp or C++"),
        ("Baker St. and St. Paul, Dr. King Jr.", "Baker Street and St. Paul, Dr. King Junior"),
        ("see Fig. 3, p. 12 and pp. 3–5", "see figure 3, page 12 and pages 3 to 5"),
        ("I'm 5'3 in a 4x4 with 1,234 items", "I'm 5'3 in a 4x4 with 1,234 items"),
    ],
)
def test_english_signs_and_units_are_words(text: str, spoken: str) -> None:
    assert said(text) == spoken


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("会議は2026-11-25の10:30です。", "会議は2026年11月25日の10時30分です。"),
        ("費用は¥1,500、または$20", "費用は1500円、または20ドル"),
        ("# 見出し\n- 項目", "見出し。 項目。"),
        ("♪うた♡と絵文字😀", "♪うた♡と絵文字"),
        ("気温は-5℃〜25°Cです", "気温はマイナス5度から25度です"),
        ("±0.5mm、+3点", "プラスマイナス0.5mm、プラス3点"),
        ("2/3の人が1/2カップ", "3分の2の人が2分の1カップ"),
        ("12/25(金)と9/1〜9/3、2/3に", "12月25日、金曜日と9月1日から9月3日、2月3日に"),
        ("12月1日(火・祝)", "12月1日、火曜日、祝日"),
        ("(月)〜(金)、土〜日", "月曜日から、金曜日、土曜から日曜"),
        ("2026.12.1とR8.12.1、版は2026.40.1", "2026年12月1日と令和8年12月1日、版は2026.40.1"),
        ("10-20個、10~20個、3,000円~", "10から20個、10から20個、3000円から"),
        ("電話は03-1234-5678、3-5号室", "電話は03-1234-5678、3-5号室"),
        ("①最初に②次に、Ⅲ章", "1、最初に2、次に、3章"),
        ("3×4=12、10÷2=5、××さん", "3×4イコール12、10わる2イコール5、バツバツさん"),
        ("#1のNo.2、#タグ、ver.2.0", "ナンバー1のナンバー2、ハッシュタグ、タグ、バージョン2.0"),
        ("5GBを24hで、iPhone 5sは5GHz", "5ギガバイトを24時間で、iPhone 5sは5GHz"),
        ("00:05から13:00", "零時5分から13時"),
    ],
)
def test_japanese_signs_are_read_as_japanese(text: str, spoken: str) -> None:
    assert said(text, "ja") == spoken


def test_pauses_in_brackets_are_pauses() -> None:
    text = (
        "One [pause] two (pause 500ms) three [2s pause] four <break time='1.5s'/> five [PAUSE: 250] six 【ポーズ1秒】"
    )
    assert [piece.pause for piece in read(text, "en").pieces] == [0.8, 0.5, 2.0, 1.5, 0.25, 1.0]
    assert said(text) == "One two three four five six"
    assert read("[pause 1s] then", "en").pieces == (Piece("", 1.0), Piece("then"))
    assert read("a [pause 1s] [pause 1s] ... b", "en").pieces == (Piece("a", 2.0), Piece("... b"))


def test_pauses_have_a_limit_and_say_so() -> None:
    one = read("a [pause 100s] b", "en")
    assert one.pieces[0].pause == reading.LONGEST_PAUSE
    assert "cut at 10 s" in one.notes[0]
    many = read("a [pause 9s] " * 20, "en")
    assert sum(piece.pause for piece in many.pieces) == pytest.approx(reading.LONGEST_PAUSES)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("Look:\n```python\nprint(1)\n```\nDone", "code blocks (1)"),
        ("Hi 👨‍👩‍👧 and 👍🏽!", "emoji or pictures (2)"),
        ("<speak>Hello <emphasis>you</emphasis></speak>", "tags (4)"),
        ("at https://a.example/x?token=1", "ends of addresses (1)"),
    ],
)
def test_what_is_left_out_is_told(text: str, note: str) -> None:
    assert read(text, "en").notes == (f"not read out: {note}",)


def test_a_text_of_code_alone_is_read() -> None:
    assert said("```\nprint(1)\n```") == "print(1)"


def test_plain_text_stays_as_it_is() -> None:
    for text in (
        "Good morning, everybody. How's it going?",
        "Dr. Smith's 2nd visit; well...",
        "今日は、良い天気です。",
    ):
        assert read(text, "en") == reading.Reading((Piece(text),))


@given(
    st.text(alphabet="ab1 *_`#[]()<>!|-\n:.~&あ。\ue000\ue0015秒pause", max_size=300), st.sampled_from(["en", "ja", ""])
)
def test_any_text_can_be_read(text: str, language: str) -> None:
    for piece in read(text, language).pieces:
        assert "\ue000" not in piece.text
        assert piece.text or piece.pause
