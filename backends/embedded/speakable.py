"""What of a text a voice can say: pictures are taken out, letters of scripts that it cannot read are counted.

Knows no voice and no phonemes.
"""

from __future__ import annotations

import unicodedata
from collections import Counter

from backends.interface import InvalidInput

_FIRST_PICTURE = 0x2190  # symbols below (©, °, ™) have names that are spoken
_CJK_SYMBOLS = range(0x3000, 0x3400)  # 〒, ㈱ and squared units, which Japanese reads
_UNREADABLE_SHARE = 0.2  # of all letters; up to it they are left out, above it the text is refused

# First word of a letter's Unicode name. The others of Latin are signs such as ª, µ and the modifier apostrophe.
_LATIN = frozenset(
    {"LATIN", "FULLWIDTH", "GREEK", "MICRO", "FEMININE", "MASCULINE", "MODIFIER", "OHM", "KELVIN", "ANGSTROM"}
)
_JAPANESE = frozenset({"HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "CJK", "IDEOGRAPHIC", "HALFWIDTH", "SQUARE"})
# Pronouns and particles of Chinese whose characters the Japanese standard has, too, but no Japanese text uses.
_CHINESE_ONLY = frozenset("你您她吧很這那哪們嗎呢啊咱")
_SCRIPTS = {"ja": _LATIN | _JAPANESE, "hi": _LATIN | {"DEVANAGARI"}}


def without_pictures(text: str) -> str:
    """`text` without emoji, other pictures and invisible characters; full-width Latin letters and digits as plain
    ones."""
    return "".join(_plain(char) for char in text if not _is_picture(char))


def readable(text: str, language: str) -> tuple[str, str]:
    """`text` without letters that a voice of `language` (primary code) cannot read, and a note about them ("" for
    none).

    Raises InvalidInput if they are a good part of the text.
    """
    known = _SCRIPTS.get(language, _LATIN)
    foreign = Counter(script for char in text if char.isalpha() and (script := _script(char)) not in known)
    count = sum(foreign.values())
    if not count:
        return text, ""
    worst = foreign.most_common(1)[0][0].title()
    if count > _UNREADABLE_SHARE * sum(char.isalpha() for char in text):
        raise InvalidInput(f"a voice of the language {language!r} cannot read {worst} letters", param="input")
    kept = "".join(" " if char.isalpha() and _script(char) not in known else char for char in text)
    return kept, f"{count} letters were left out that a voice of the language {language!r} cannot read ({worst})"


def language_of(text: str) -> str | None:
    """ "ja" for a text with kana, "latin" for one in Latin letters or none at all, None for other scripts."""
    scripts = Counter(_script(char) for char in text if char.isalpha())
    if any(scripts[script] for script in ("HIRAGANA", "KATAKANA", "HALFWIDTH")):
        return "ja"
    latin = sum(count for script, count in scripts.items() if script in _LATIN)
    return "latin" if 2 * latin >= scripts.total() else None


def is_kanji_only(text: str) -> bool:
    """Whether the letters of a text are Chinese characters and nothing else, as both Japanese and Chinese write."""
    scripts = {_script(char) for char in text if char.isalpha()}
    return bool(scripts) and scripts <= {"CJK", "IDEOGRAPHIC"}


def is_surely_chinese(text: str) -> bool:
    """Whether a text holds characters that Japanese does not write: outside JIS X 0208, or words of everyday
    Chinese."""
    try:
        text.encode("cp932")
    except UnicodeEncodeError:
        return True
    return not _CHINESE_ONLY.isdisjoint(text)


def _script(char: str) -> str:
    return unicodedata.name(char, "UNKNOWN").split(" ")[0]


def _is_picture(char: str) -> bool:
    kind = unicodedata.category(char)
    if kind == "So":
        return ord(char) >= _FIRST_PICTURE and ord(char) not in _CJK_SYMBOLS
    return kind in ("Cf", "Co", "Cn") or char in "\ufe0e\ufe0f\u20e3" or 0x1F3FB <= ord(char) <= 0x1F3FF


def _plain(char: str) -> str:
    return unicodedata.normalize("NFKC", char) if "\uff01" <= char <= "\uff5e" else char
