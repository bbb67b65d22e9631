"""What of a text a voice can say: pictures are taken out, letters of scripts that it cannot read are counted.

Knows no voice and no phonemes.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection

from backends.interface import InvalidInput
from backends.spoken_text import symbols

_UNREADABLE_SHARE = 0.2  # of all letters; up to it they are left out, above it the text is refused
_FOREIGN_SHARE = 0.5  # of all letters; above it the text is in another language than the voice

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
    return "".join(_plain(char) for char in symbols.without_pictures(text, "")[0] if not _is_invisible(char))


def readable(text: str, language: str, others: Collection[str] = ()) -> tuple[str, str]:
    """`text` without letters that a voice of `language` (primary code) cannot read, and a note about them ("" for
    none).

    others: scripts whose words such a voice is given the sounds of, by the first words of their letters' Unicode
    names. Raises InvalidInput if letters that cannot be read are a good part of the text, or those of other scripts
    most of it.
    """
    known = _SCRIPTS.get(language, _LATIN)
    letters = Counter(_script(char) for char in text if char.isalpha())
    foreign = Counter({script: count for script, count in letters.items() if script not in known})
    unread = Counter({script: count for script, count in foreign.items() if script not in others})
    if unread.total() > _UNREADABLE_SHARE * letters.total() or foreign.total() > _FOREIGN_SHARE * letters.total():
        worst = (unread or foreign).most_common(1)[0][0].title()
        raise InvalidInput(f"a voice of the language {language!r} cannot read {worst} letters", param="input")
    if not unread:
        return text, ""
    kept = "".join(" " if char.isalpha() and _script(char) in unread else char for char in text)
    worst = unread.most_common(1)[0][0].title()
    note = f"{unread.total()} letters were left out that a voice of the language {language!r} cannot read ({worst})"
    return kept, note


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


def _is_invisible(char: str) -> bool:
    return unicodedata.category(char) in ("Cf", "Co", "Cn")


def _plain(char: str) -> str:
    return unicodedata.normalize("NFKC", char) if "\uff01" <= char <= "\uff5e" else char
