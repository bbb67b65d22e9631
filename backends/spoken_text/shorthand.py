"""What English writes short and says in full: days, months, paths, currencies, digits that are no number.

Digits stay digits where the voices read them right. Knows no markup, no dates and no money.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_DAYS = {
    "Mon": "Monday", "Tue": "Tuesday", "Tues": "Tuesday", "Wed": "Wednesday", "Thu": "Thursday", "Thur": "Thursday",
    "Thurs": "Thursday", "Fri": "Friday", "Sat": "Saturday", "Sun": "Sunday",
}  # fmt: skip
_MONTHS = {
    "Jan": "January", "Feb": "February", "Mar": "March", "Apr": "April", "Jun": "June", "Jul": "July", "Aug": "August",
    "Sep": "September", "Sept": "September", "Oct": "October", "Nov": "November", "Dec": "December",
}  # fmt: skip
_COUNTED = {
    "vol": "volume", "ch": "chapter", "sec": "section", "apt": "apartment", "rm": "room", "ext": "extension",
    "chap": "chapter", "ver": "version", "eq": "equation", "art": "article",
}  # fmt: skip
_SHORT = {"etc": "et cetera", "Inc": "Incorporated", "Ltd": "Limited", "Corp": "Corporation", "dept": "department"}
_CURRENCIES = {
    "USD": "US dollars", "EUR": "euros", "GBP": "British pounds", "JPY": "yen", "CAD": "Canadian dollars",
    "AUD": "Australian dollars", "CHF": "Swiss francs", "CNY": "yuan",
}  # fmt: skip
_PER = {"mo": "month", "yr": "year", "hr": "hour", "h": "hour", "wk": "week", "s": "second", "min": "minute"}
_PATH_SIGNS = {"/": " slash ", ".": " dot ", "-": " dash ", "_": " underscore ", "~": "tilde"}


def _any(words: dict[str, str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


def _digits(found: re.Match[str]) -> str:
    return ", ".join(" ".join(group) for group in re.findall(r"\d+", found[0]))


def _path(found: re.Match[str]) -> str:
    words = re.sub(r"[/._~-]", lambda sign: _PATH_SIGNS[sign[0]], found[0].rstrip("/"))
    return " ".join(words.split())


def _ratio(found: re.Match[str]) -> str:
    """3 to 2; one number behind the other for a chapter and its verse, and for minutes and seconds."""
    if found[1] or len(found[3]) == 2:
        return " ".join(part for part in found.groups() if part)
    return f"{found[2]} to {found[3]}"


def _short(found: re.Match[str]) -> str:
    """An abbreviation's full stop is also a sentence's at the end, and before another sentence."""
    return _SHORT[found[1]] + ("." if found[2] is not None else "")


_Rules = tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...]
_BEFORE: _Rules = (
    (re.compile(r"(?<!\S)(?:[:;=][-']?[)(DPpOo|]|:'\(|<3|\^_\^)(?!\S)"), ""),
    (re.compile(rf"\b({_any(_DAYS)})\.?\s?[-–]\s?({_any(_DAYS)})\b\.?"),
     lambda found: f"{_DAYS[found[1]]} to {_DAYS[found[2]]}"),
    (re.compile(rf"\b({_any(_DAYS)})\.?(?=,? (?:\d|{_any(_MONTHS)}))"), lambda found: _DAYS[found[1]]),
    (re.compile(rf"\b({_any(_MONTHS)})\b\.?(?= \d)"), lambda found: _MONTHS[found[1]]),
    (re.compile(rf"(?<=\d )({_any(_MONTHS)})\b\.?(?=,? \d{{4}})"), lambda found: _MONTHS[found[1]]),
    (re.compile(rf"\b({_any(_COUNTED)})\.\s?(?=\d|[IVX]+\b)", re.IGNORECASE),
     lambda found: (_COUNTED[found[1].lower()].capitalize() if found[1][0].isupper() else _COUNTED[found[1]]) + " "),
    (re.compile(rf"\b({_any(_SHORT)})\.(\s*$|(?=\s+[A-Z]))?"), _short),
    (re.compile(r"\b([Vv]ersion) [vV]\.?(?=\d)"), r"\1 "),
    (re.compile(r"\b[vV](?=\d{1,4}\.\d)"), "version "),
    (re.compile(r"(?<![\w.-])(?:\d{4}(?:[ -]\d{4}){2,4}|\d{3}-\d\d-\d{4})(?![\w-])", re.ASCII), _digits),
    (re.compile(r"(?<![\w/<])(?:~|\.{1,2})?(?:/[A-Za-z_.][\w.-]{0,63}){2,16}/?"), _path),
    (re.compile(r"(?<![\w.])\.(?=[A-Za-z]\w)"), "dot "),
    (re.compile(r"\b[a-z]{2,30}(?:[A-Z][a-z0-9]{1,30}){1,8}\b"),
     lambda found: re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", found[0])),
    (re.compile(r"(?<!\w)@(?=\w)"), "at "),
    (re.compile(r"\b(\d{1,2}) ?([AaPp])[Mm]\b"), lambda found: f"{found[1]} {found[2].lower()}.m."),
    (re.compile(r"(?<![\d:])(\d{1,2}(?::\d\d)?(?: ?[ap]\.m\.)?) ?[-–] ?(?=\d{1,2}(?::\d\d(?!\d)| [ap]\.m\.))"),
     r"\1 to "),
    (re.compile(r"(?<![\w.,$€£¥])(\d[\d,]{0,20}(?:\.\d{1,9})?) ?([€£$¥])(?![\w$€£¥])"), r"\2\1"),
    (re.compile(rf"\b({_any(_CURRENCIES)}) (\d(?:[\d,]{{0,19}}\d)?(?:\.\d{{1,9}})?)"),
     lambda found: f"{found[2]} {_CURRENCIES[found[1]]}"),
    (re.compile(rf"(?<=\d) ({_any(_CURRENCIES)})\b"), lambda found: f" {_CURRENCIES[found[1]]}"),
    (re.compile(r"(?<=\d)\s?½"), " and a half"),
    (re.compile(r"(?<=\d)\s?¼"), " and a quarter"),
    (re.compile(r"(?<=\d)\s?¾"), " and three quarters"),
    (re.compile(r"(?<=\d) in\.(?=\s|$)|(?<=\d) in(?=[,;)]|\.?$)"), " inches"),
    (re.compile(r"\b(\d{1,9}(?:\.\d{1,9})?)[x×](?=[\s,.;!?]|$)"), r"\1 times"),
    (re.compile(r"\b(\d{1,9}(?:\.\d{1,9})?)[eE]\+?(-?\d{1,3})\b"), r"\1 times 10 to the power of \2"),
)  # fmt: skip
_AFTER: _Rules = (
    (re.compile(r"\b(dollars?|cents?|euros?|pounds?|pence|yen|percent)/(\w{1,12})"),
     lambda found: f"{found[1]} per {_PER.get(found[2], found[2])}"),
    (re.compile(r"(?:\b([A-Z][a-z]{1,20}\.?) )?(?<![\d:])\b(\d{1,3}):(\d{1,3})(?![\d:])"), _ratio),
    (re.compile(r"√\s?"), "the square root of "),
    (re.compile(r"(?<=[\w)])²"), " squared"),
    (re.compile(r"(?<=[\w)])³"), " cubed"),
    (re.compile(r"(?<=\d)\s?‰"), " per mille"),
    (re.compile(r"(?<=\d)\s?<\s?(?=\d)"), " is less than "),
    (re.compile(r"(?<=\d)\s?>\s?(?=\d)"), " is greater than "),
    (re.compile(r"(?<![\w.,)/:+–-])[-−](?=\d)"), "minus "),
    (re.compile(r"(?<![\w+])\+(?=\d)"), "plus "),
)  # fmt: skip


def in_full(text: str) -> str:
    """Before dates, times and money are read."""
    return _applied(_BEFORE, text)


def with_sums(text: str) -> str:
    """Behind them: signs between numbers."""
    return _applied(_AFTER, text)


def _applied(rules: _Rules, text: str) -> str:
    for pattern, said in rules:
        text = pattern.sub(said, text)
    return text
