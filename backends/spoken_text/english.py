"""Dates, times, money, units, abbreviations and signs of an English text in the words that a person says.

Digits stay digits where the voices read them right. Knows no markup and no voice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from backends.spoken_text.patterns import ISO_DATE, NUMBER, TIME
from backends.spoken_text.shorthand import in_full, with_sums

_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
_UNITS: Mapping[str, tuple[str, str]] = {
    "km/h": ("kilometer per hour", "kilometers per hour"),
    "m/s": ("meter per second", "meters per second"),
    "mph": ("mile per hour", "miles per hour"),
    "km": ("kilometer", "kilometers"),
    "cm": ("centimeter", "centimeters"),
    "mm": ("millimeter", "millimeters"),
    "m": ("meter", "meters"),
    "mi": ("mile", "miles"),
    "ft": ("foot", "feet"),
    "kg": ("kilogram", "kilograms"),
    "mg": ("milligram", "milligrams"),
    "g": ("gram", "grams"),
    "lb": ("pound", "pounds"),
    "lbs": ("pound", "pounds"),
    "oz": ("ounce", "ounces"),
    "ml": ("milliliter", "milliliters"),
    "mL": ("milliliter", "milliliters"),
    "L": ("liter", "liters"),
    "l": ("liter", "liters"),
    "ms": ("millisecond", "milliseconds"),
    "s": ("second", "seconds"),
    "min": ("minute", "minutes"),
    "h": ("hour", "hours"),
    "hrs": ("hour", "hours"),
    "KB": ("kilobyte", "kilobytes"),
    "MB": ("megabyte", "megabytes"),
    "GB": ("gigabyte", "gigabytes"),
    "TB": ("terabyte", "terabytes"),
    "Hz": ("hertz", "hertz"),
    "kHz": ("kilohertz", "kilohertz"),
    "MHz": ("megahertz", "megahertz"),
    "GHz": ("gigahertz", "gigahertz"),
    "kWh": ("kilowatt hour", "kilowatt hours"),
    "kW": ("kilowatt", "kilowatts"),
    "W": ("watt", "watts"),
    "V": ("volt", "volts"),
    "°C": ("degree Celsius", "degrees Celsius"),
    "℃": ("degree Celsius", "degrees Celsius"),
    "°F": ("degree Fahrenheit", "degrees Fahrenheit"),
    "°": ("degree", "degrees"),
    "%": ("percent", "percent"),
    "m²": ("square meter", "square meters"),
    "km²": ("square kilometer", "square kilometers"),
    "dB": ("decibel", "decibels"),
    "sq ft": ("square foot", "square feet"),
    "sq. ft.": ("square foot", "square feet"),
    "yd": ("yard", "yards"),
    "gal": ("gallon", "gallons"),
    "tsp": ("teaspoon", "teaspoons"),
    "tbsp": ("tablespoon", "tablespoons"),
    "sec": ("second", "seconds"),
    "hr": ("hour", "hours"),
    "mins": ("minute", "minutes"),
    "kcal": ("kilocalorie", "kilocalories"),
    "mAh": ("milliampere hour", "milliampere hours"),
    "Mbps": ("megabit per second", "megabits per second"),
    "KB/s": ("kilobyte per second", "kilobytes per second"),
    "MB/s": ("megabyte per second", "megabytes per second"),
    "GB/s": ("gigabyte per second", "gigabytes per second"),
    "Gbps": ("gigabit per second", "gigabits per second"),
    "fps": ("frame per second", "frames per second"),
    "nm": ("nanometer", "nanometers"),
    "μm": ("micrometer", "micrometers"),
    "hPa": ("hectopascal", "hectopascals"),
}
_MONEY: Mapping[str, tuple[str, str, str, str]] = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "¥": ("yen", "yen", "", ""),
}
_SCALES = {"k": "thousand", "m": "million", "mn": "million", "bn": "billion", "b": "billion"}
_SIGNS = {
    "½": " one half",
    "¼": " one quarter",
    "¾": " three quarters",
    "→": " to ",
    "⇒": " to ",
    "≈": " about ",
    "≥": " at least ",
    "≤": " at most ",
    "≠": " is not equal to ",
    "±": " plus or minus ",
    "×": " times ",
    "÷": " divided by ",
    "&": " and ",
}
_WORDS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\be\.\s?g\.,?", re.IGNORECASE), "for example"),
    (re.compile(r"\bi\.\s?e\.,?", re.IGNORECASE), "that is"),
    (re.compile(r"\bvs\.(?=\s)", re.IGNORECASE), "versus"),
    (re.compile(r"\b[Nn]o\.\s?(?=\d)"), "number "),
    (re.compile(r"(?<!\w)#(?=\d)"), "number "),
    (re.compile(r"(?<!\w)#(?=[A-Za-z])"), "hashtag "),
    (re.compile(r"(?<![\w.])~\s?(?=\d)"), "about "),
    (re.compile(r"\bvs(?=\s)", re.IGNORECASE), "versus"),
    (re.compile(r"\bw/o\b"), "without"),
    (re.compile(r"\bw/(?=\s)"), "with"),
    (re.compile(r"\bapprox\.", re.IGNORECASE), "approximately"),
    (re.compile(r"\b[Ff]ig\.\s?(?=\d)"), "figure "),
    (re.compile(r"\bpp\.\s?(?=\d)"), "pages "),
    (re.compile(r"\bp\.\s?(?=\d)"), "page "),
    (re.compile(r"\bPh\.\s?D\b\.?"), "P H D"),
    (re.compile(r"(?<=[a-z]),? Jr\b\.?"), " Junior"),
    (re.compile(r"(?<=[a-z]),? Sr\b\.?"), " Senior"),
    (re.compile(r"(?<=[a-z]) St\.(?=,|$|\s+[a-z(])"), " Street"),
    (re.compile(r"(?<=[a-z]) Ave\.(?=\W|$)"), " Avenue"),
    (re.compile(r"(?<=[a-z]) Rd\.(?=\W|$)"), " Road"),
    (re.compile(r"(?<=[a-z]) Blvd\.(?=\W|$)"), " Boulevard"),
    (re.compile(r"\b([CF])#(?!\w)"), r"\1 sharp"),
    (re.compile(r"\s?[-=]+>\s?"), " to "),
    (re.compile(r"(?<=\d)\s?–\s?(?=\d)"), " to "),
)
_MONEY_SUM = re.compile(rf"([$€£¥])\s?({NUMBER})(?:\s?(k|mn?|bn?|thousand|million|billion|trillion)\b)?", re.IGNORECASE)
_UNIT = re.compile(
    rf"(?<![\w.])({NUMBER})[ \u00a0]?({'|'.join(map(re.escape, sorted(_UNITS, key=len, reverse=True)))})(?![\w/²³'’])"
)


# --- Numbers that are no quantities -----------------------------------------------------------------------------------

_SLASH_DATE = re.compile(r"(?<![\w/])(\d{1,2})/(\d{1,2})/((?:19|20)?\d\d)(?![\w/])", re.ASCII)
_YEAR_FIRST = re.compile(r"(?<![\w/])((?:19|20)\d\d)/(0?[1-9]|1[0-2])/(0?[1-9]|[12]\d|3[01])(?![\w/])", re.ASCII)
_ZULU = re.compile(r"(?<=:\d\d)(?:\.\d+)?Z\b")
_PHONE = re.compile(
    r"(?<![\w.,/-])(?:(?:\+\d{1,3}[ -]?)?(?:\(\d{2,4}\) ?|\d{2,4}[ -])\d{3,4}[ -]\d{4}|\d{3}-\d{4})(?![\w/-]|\.\d)",
    re.ASCII,
)
_OF_TWO = re.compile(r"(?<![\w/.,])(?:(\d+) )?(\d{1,2})/(\d{1,2})(?![\w/]|[.,]\d)", re.ASCII)
_PARTS = {2: ("half", "halves"), 3: ("third", "thirds"), 4: ("quarter", "quarters"), 5: ("fifth", "fifths"),
          6: ("sixth", "sixths"), 8: ("eighth", "eighths")}  # fmt: skip
_RANGE = re.compile(r"(?<![\w.,:/+-])(\d[\d,]{0,19}%?) ?[-–] ?(\d[\d,]{0,19}%?)(?![\w-]|[.,:/]\d)", re.ASCII)
_DECADE = re.compile(r"(?<![\w'’])(1[1-9]|20)(\d0)s\b|(?<!\w)['’](\d0)s\b")
_DECADES = [
    "hundreds",
    "tens",
    "twenties",
    "thirties",
    "forties",
    "fifties",
    "sixties",
    "seventies",
    "eighties",
    "nineties",
]
_YEAR = re.compile(r"(?<![\w.,$€£¥/:+-])(1[6-9])(0[1-9]|[1-9]\d)(?![\w/:]|-\w|[.,]\d)", re.ASCII)
_FEET = re.compile(r"(?<![\w.])(\d{1,2})['′] ?(\d{1,2})(?:\"|″|'')")
_ROMAN = re.compile(r"\b([A-Z][a-z]+) (?!X\b)((?:X{1,2}(?:IX|IV|V?I{0,3})|IX|IV|VI{1,3}|II|III))\b")
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10}
_RULERS = frozenset(
    {
        "Alexander", "Benedict", "Catherine", "Charles", "Edward", "Elizabeth", "Francis", "Frederick", "George",
        "Gregory", "Henry", "James", "John", "Leo", "Louis", "Napoleon", "Nicholas", "Paul", "Peter", "Philip", "Pius",
        "Ramses", "Richard", "Urban", "Wilhelm", "William",
    }
)  # fmt: skip
_POWER = re.compile(r"(?<=[\w)])\^([-−]?\d+|[a-z])\b")


def _slash_date(found: re.Match[str]) -> str:
    """Month first, as the voice's Americans write it, unless it can be no month."""
    first, second = int(found[1]), int(found[2])
    month, day = (first, second) if first <= 12 else (second, first)
    year = found[3] if len(found[3]) == 4 else ("20" if found[3] < "70" else "19") + found[3]
    return f"{_MONTHS[month - 1]} {_ordinal(day)}, {year}" if 1 <= month <= 12 and 1 <= day <= 31 else found[0]


def _phone(found: re.Match[str]) -> str:
    groups = (" ".join(digits) for digits in re.findall(r"\d+", found[0]))
    return ("plus " if found[0].startswith("+") else "") + ", ".join(groups)


def _of_two(found: re.Match[str]) -> str:
    """3/4 is three quarters, 1 1/2 one and a half, 24/7 two numbers."""
    whole, above, below = found[1], int(found[2]), int(found[3])
    if not (0 < above < below and below in _PARTS):
        return f"{whole} {above} {below}" if whole else f"{above} {below}"
    part = f"{'a' if whole else 'one'} {_PARTS[below][0]}" if above == 1 else f"{above} {_PARTS[below][1]}"
    return f"{whole} and {part}" if whole else part


def _range(found: re.Match[str]) -> str:
    left, right = (int(number.strip("%").replace(",", "") or 0) for number in found.groups())
    return f"{found[1]} to {found[2]}" if left < right else found[0]


def _decade(found: re.Match[str]) -> str:
    century, tens, short = found.groups()
    if short:
        return _DECADES[int(short[0])] if short != "00" else "two thousands"
    if tens == "00":
        return "two thousands" if century == "20" else f"{century} hundreds"
    return f"{century} {_DECADES[int(tens[0])]}"


def _year(found: re.Match[str]) -> str:
    return f"{found[1]} oh {found[2][1]}" if found[2][0] == "0" else f"{found[1]} {found[2]}"


def _roman(found: re.Match[str]) -> str:
    values = [_ROMAN_VALUES[letter] for letter in found[2]]
    number = sum(-value if value < max(values[index:]) else value for index, value in enumerate(values))
    return f"{found[1]} the {_ordinal(number)}" if found[1] in _RULERS else f"{found[1]} {number}"


def _power(found: re.Match[str]) -> str:
    return {"2": " squared", "3": " cubed"}.get(found[1], f" to the power of {found[1]}")


_NUMBERS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (_ZULU, " UTC"),
    (_YEAR_FIRST, lambda found: f"{_MONTHS[int(found[2]) - 1]} {_ordinal(int(found[3]))}, {found[1]}"),
    (_SLASH_DATE, _slash_date),
    (_PHONE, _phone),
    (_FEET, r"\1 foot \2"),
    (_POWER, _power),
    (_OF_TWO, _of_two),
    (_RANGE, _range),
    (_DECADE, _decade),
    (_ROMAN, _roman),
)


def english(text: str) -> str:
    """`text` with its numbers, dates, abbreviations and signs as they are said."""
    text = in_full(text)
    for pattern, word in _WORDS:
        text = pattern.sub(word, text)
    text = ISO_DATE.sub(lambda found: f"{_MONTHS[int(found[2]) - 1]} {_ordinal(int(found[3]))}, {found[1]} ", text)
    for pattern, said in _NUMBERS:
        text = pattern.sub(said, text)
    text = _MONEY_SUM.sub(_money, TIME.sub(_time, text))
    text = _UNIT.sub(lambda found: f"{found[1]} {_UNITS[found[2]][found[1] != '1']}", text)
    text = with_sums(_YEAR.sub(_year, text))
    return "".join(_SIGNS.get(char, char) for char in text)


def _ordinal(number: int) -> str:
    ending = "th" if 10 < number < 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _time(found: re.Match[str]) -> str:
    hour, minute, second, half = found.groups()
    if not (int(hour) or int(minute) or half):
        return "midnight"
    spoken = str(int(hour))
    if int(minute):
        spoken += f" {minute}" if int(minute) > 9 else f" oh {int(minute)}"
    elif half is None:
        spoken += " o'clock" if 0 < int(hour) <= 12 else " hundred hours"
    if second and int(second):
        spoken += f" and {int(second)} seconds"
    return f"{spoken} {half.lower()}.m." if half else spoken


def _money(found: re.Match[str]) -> str:
    sign, number, scale = found.groups()
    one, many, small, smalls = _MONEY[sign]
    if scale:
        return f"{number} {_SCALES.get(scale.lower(), scale)} {many}"
    whole, _, part = number.rstrip(",").partition(".")
    rest = "," if number.endswith(",") else ""
    if len(part) == 2 and small:
        main = f"{whole} {one if whole == '1' else many}"
        cents = f"{int(part)} {small if int(part) == 1 else smalls}"
        return (cents if whole == "0" and int(part) else f"{main} {cents}" if int(part) else main) + rest
    return f"{number.rstrip(',')} {one if number == '1' else many}{rest}"
