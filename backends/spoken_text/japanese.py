"""Dates, times, money, units and signs of a Japanese text in words that Japanese voices read right.

Digits stay digits: the voices read them with their counters. Knows no markup and no voice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from backends.spoken_text.patterns import ISO_DATE, NUMBER, TIME

_CURRENCIES = {"$": "ドル", "€": "ユーロ", "£": "ポンド", "¥": "円", "￥": "円"}
_ERAS = {"R": "令和", "H": "平成", "S": "昭和"}
_SIGNS = {
    "→": "、", "⇒": "、", "&": "アンド", "＆": "アンド", "≒": "約", "≈": "約", "≧": "大なりイコール",
    "≥": "大なりイコール", "≦": "小なりイコール", "≤": "小なりイコール", "≠": "ノットイコール", "＝": "イコール",
    "＋": "プラス", "±": "プラスマイナス", "÷": "わる",
}  # fmt: skip
_UNITS = {
    "℃": "度", "°C": "度", "℉": "度", "°F": "度", "°": "度", "h": "時間", "min": "分", "sec": "秒",
    "KB": "キロバイト", "MB": "メガバイト", "GB": "ギガバイト", "TB": "テラバイト", "Mbps": "メガビーピーエス",
    "Gbps": "ギガビーピーエス", "fps": "フレーム毎秒", "mAh": "ミリアンペア時", "km/h": "キロメートル毎時",
    "m/s": "メートル毎秒", "km²": "平方キロメートル", "m²": "平方メートル", "cm²": "平方センチメートル",
    "m³": "立方メートル",
}  # fmt: skip
_DAY = "[月火水木金土日祝]"
_WEEKDAYS = "月火水木金土日"
_RANGE = "[〜～~]"
_COUNTED = "[一-龠ヶ個つ]"  # what is counted, or its unit

_DATE = re.compile(r"(?<![\w/.])(\d{4})([/.])(\d{1,2})\2(\d{1,2})(?![\w/.])", re.ASCII)
_ERA_DATE = re.compile(r"(?<![A-Za-z])([RHS])(\d{1,2})\.(\d{1,2})\.(\d{1,2})(?![\w.])", re.ASCII)
_OF_TWO = re.compile(r"(?<![\d/.])(\d{1,2})/(\d{1,2})(?![\d/.])", re.ASCII)
_DATE_FOLLOWS = re.compile(rf"\s?[(（]{_DAY}|(?:に|から|まで|は|付|以降|以前|午[前後])|\s?{_RANGE}\s?\d{{1,2}}/\d")
_WEEKDAY = re.compile(rf"[(（]({_DAY}(?:[・､、,/]{_DAY})*)[)）]")
_DAYS_RANGE = re.compile(rf"([{_WEEKDAYS}])\s?{_RANGE}\s?([{_WEEKDAYS}])(?![一-龠])")
_NUMBERS_RANGE = re.compile(
    rf"(?<![\d.-])(\d[\d,.]{{0,19}})\s?(?:-|‐|–|−|~)\s?(\d[\d,.]{{0,19}})(?=(?![号番丁]){_COUNTED}|%|％|[kmc]?[mg]\b)"
)
_FROM = re.compile(rf"(?<=[円日時分秒年月歳人個])\s?{_RANGE}(?=[\s。、)）]|$)")
_BETWEEN = re.compile(rf"(?<=[\d日時分年月曜度)）])\s?{_RANGE}\s?(?=[\d(（])")
_MINUS = re.compile(r"(?<![\w)）.\-‐−])[-−‐－](?=\d)", re.ASCII)
_PLUS = re.compile(r"(?<![\w+])\+(?=\d)", re.ASCII)
_TIMES_RANGE = re.compile(r"(?<![\d:])(\d{1,2}:\d\d)\s?[-‐–−]\s?(?=\d{1,2}:\d\d)", re.ASCII)
_PLUSES = re.compile(r"(?<=[\w)])\s?\+\s?(?=[\d(])", re.ASCII)
_POWER = re.compile(r"(?<=[\w)])[²³]")
_COMPANY = re.compile(r"㈱|[(（]株[)）]")
_EQUALS = re.compile(r"(?<=[\w)])\s?=\s?(?=[\w(-])")
_MONEY = re.compile(rf"([$€£¥￥])\s?({NUMBER})")
_UNIT = re.compile(
    rf"(?<=\d)[ \u00a0]?({'|'.join(map(re.escape, sorted(_UNITS, key=len, reverse=True)))})(?![A-Za-z/²³0-9])"
)
_NUMBER_SIGN = re.compile(r"(?<!\w)[#＃](?=\d)|(?<![A-Za-z])No\.\s?(?=\d)")
_HASHTAG = re.compile(r"(?<![\w&])[#＃](?=\w)")
_VERSION = re.compile(r"\bver\.?\s?(?=\d)", re.IGNORECASE | re.ASCII)
_CROSSES = re.compile("×{2,}")  # a name that is not said; a single one is "times"
_CIRCLED = {chr(0x2460 + index): f"{index + 1}、" for index in range(20)}
_ROMAN = {chr(0x2160 + index): str(index + 1) for index in range(12)}
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")


def japanese(text: str) -> str:
    """`text` with its numbers, dates and signs as they are said."""
    for pattern, said in _RULES:
        text = pattern.sub(said, text)
    return "".join(_ONE_BY_ONE.get(char, char) for char in text)


def _date(found: re.Match[str]) -> str:
    return _day(found[0], f"{found[1]}年", int(found[3]), int(found[4]))


def _era_date(found: re.Match[str]) -> str:
    return _day(found[0], f"{_ERAS[found[1]]}{int(found[2])}年", int(found[3]), int(found[4]))


def _day(written: str, year: str, month: int, day: int) -> str:
    return f"{year}{month}月{day}日" if 1 <= month <= 12 and 1 <= day <= 31 else written


def _of_two(found: re.Match[str]) -> str:
    """12/25(金) is a date, 2/3 a fraction: a date where the text goes on as behind one, or where it is no fraction."""
    left, right = int(found[1]), int(found[2])
    is_date = 1 <= left <= 12 and 1 <= right <= 31
    if is_date and (left >= right or _DATE_FOLLOWS.match(found.string, found.end()) or right > 10):
        return f"{left}月{right}日"
    return f"{right}分の{left}" if 0 < left < right else f"{found[1]}、{found[2]}"


def _weekday(found: re.Match[str]) -> str:
    """(火・祝) -> 、火曜日、祝日、 as behind a date."""
    days = "、".join(f"{day}曜日" if day in _WEEKDAYS else "祝日" for day in found[1] if day in "祝" + _WEEKDAYS)
    return f"、{days}" if found.start() else days


def _time(found: re.Match[str]) -> str:
    hour, minute, second, half = found.groups()
    name = "零時" if int(hour) == 0 else f"{int(hour)}時"
    spoken = name + (f"{int(minute)}分" if int(minute) else "") + (f"{int(second)}秒" if second else "")
    return {"a": "午前", "p": "午後"}.get((half or "").lower(), "") + spoken


def _crosses(found: re.Match[str]) -> str:
    return "バツ" * len(found[0])


# A rule sees what those before it have left.
_RULES: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (ISO_DATE, lambda found: f"{found[1]}年{int(found[2])}月{int(found[3])}日"),
    (_DATE, _date),
    (_ERA_DATE, _era_date),
    (_OF_TWO, _of_two),
    (_TIMES_RANGE, r"\1から"),
    (TIME, _time),
    (_UNIT, lambda found: _UNITS[found[1]]),
    (_DAYS_RANGE, r"\1曜から\2曜"),
    (_BETWEEN, "から"),
    (_WEEKDAY, _weekday),
    (_FROM, "から"),
    (_NUMBERS_RANGE, r"\1から\2"),
    (_MONEY, lambda found: f"{found[2]}{_CURRENCIES[found[1]]}"),
    (_MINUS, "マイナス"),
    (_PLUS, "プラス"),
    (_EQUALS, "イコール"),
    (_PLUSES, "プラス"),
    (_POWER, lambda found: {"²": "の2乗", "³": "の3乗"}[found[0]]),
    (_COMPANY, "株式会社"),
    (_NUMBER_SIGN, "ナンバー"),
    (_HASHTAG, "ハッシュタグ、"),
    (_VERSION, "バージョン"),
    (_CROSSES, _crosses),
    (_THOUSANDS, ""),
)
_ONE_BY_ONE: Mapping[str, str] = {**_SIGNS, **_CIRCLED, **_ROMAN}
