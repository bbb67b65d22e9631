"""Which letters an espeak-ng voice reads, and what becomes of a text that holds others.

Owns the table of scripts and languages and the decision between reading, leaving out and refusing. Knows no voice names
and no audio. espeak-ng never fails on a letter it has no rules for: it says "Chinese letter", the name of the letter,
or "letter" and its code, once for every character, which nobody wants to hear.

The table was measured with espeak-ng 1.52: the phonemes that every voice makes of one word of every script. A word is
read if it comes out as one piece, by the voice itself or by one of another language that espeak-ng changes to.
"""

from __future__ import annotations

import functools
import itertools
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from backends.interface import InvalidInput

# Script of a letter -> language that speaks it when the request names no language.
SCRIPT_LANGUAGE: Mapping[str, str] = {
    "ARABIC": "ar", "ARMENIAN": "hy", "BENGALI": "bn", "CJK": "cmn", "CYRILLIC": "ru", "DEVANAGARI": "hi",
    "ETHIOPIC": "am",
    "GEORGIAN": "ka", "GREEK": "el", "GUJARATI": "gu", "GURMUKHI": "pa", "HANGUL": "ko", "HEBREW": "he",
    "HIRAGANA": "ja",
    "KANNADA": "kn", "KATAKANA": "ja", "KATAKANA-HIRAGANA": "ja", "MALAYALAM": "ml", "MYANMAR": "my", "ORIYA": "or",
    "SINHALA": "si", "TAMIL": "ta", "TELUGU": "te", "THAI": "th",
}  # fmt: skip

# Languages that read a script beside the one above (primary codes).
_ALSO_READS: Mapping[str, str] = {
    "ARABIC": "fa sd ug ur", "BOPOMOFO": "", "CJK": "yue",
    "CYRILLIC": "ba be bg bs cv hr ka kk ky lfn ltg lv mk nog sr tt uk uz", "ETHIOPIC": "ti", "MYANMAR": "shn",
    "SHAVIAN": "en",
}  # fmt: skip

# Every voice reads these, most of them by changing to the script's own language, but for the languages named.
_READ_BY_ALL_BUT: Mapping[str, str] = {
    "ARMENIAN": "", "BENGALI": "", "DEVANAGARI": "", "GEORGIAN": "", "GREEK": "af en lt", "GUJARATI": "",
    "GURMUKHI": "",
    "HANGUL": "", "KANNADA": "", "LATIN": "ba cv hyw ja kok ky my nog shn ti", "MALAYALAM": "", "SINHALA": "",
    "TAMIL": "",
}  # fmt: skip

_NAMED_WHEN_ALONE = frozenset({"ARABIC", "CYRILLIC", "GREEK", "HEBREW", "LATIN"})  # "the angle alpha" is what is meant
_MOST_LEFT_OUT = 1 / 3  # of all letters; a text with more of them is not in the voice's language
_MOST_SHOWN = 20  # characters of a note

# Other forms of ordinary letters and digits, which espeak-ng spells by their codes or passes over (Unicode, UAX 44,
# table 14).
_OTHER_FORMS = ("<wide>", "<narrow>", "<font>", "<compat>", "<circle>")
_FORMS_OF = ("L", "Nd", "Nl", "No")
_KNOWN = frozenset(_READ_BY_ALL_BUT) | frozenset(_ALSO_READS) | frozenset(SCRIPT_LANGUAGE)
_JOINERS = "\u200c\u200d"  # inside words of several scripts


@dataclass(frozen=True, slots=True)
class Legible:
    """text: what the voice can read of a request; notes: what was done to it."""

    text: str
    notes: tuple[str, ...] = ()


def script_of(letter: str) -> str:
    """The first word of the letter's Unicode name; letters of Chinese origin are all "CJK"."""
    name = unicodedata.name(letter, "UNKNOWN").split(" ")[0]
    return "CJK" if name in ("CJK", "IDEOGRAPHIC") else name


def language_of(text: str) -> str | None:
    """The language of a text that is mostly in a script other than Latin; None for Latin or none."""
    scripts = Counter(script_of(letter) for letter in ordinary_letters(text) if letter.isalpha())
    kana = sum(scripts.pop(name, 0) for name in ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"))
    if kana:  # Japanese mixes kana with Chinese characters
        scripts["HIRAGANA"] = kana + scripts.pop("CJK", 0)
    most = max(scripts, key=lambda script: scripts[script], default="LATIN")
    return SCRIPT_LANGUAGE.get(most)


def reads(language: str, script: str) -> bool:
    """Whether voices of `language` (a primary code) read words of `script`."""
    if script in _READ_BY_ALL_BUT:
        return language not in _READ_BY_ALL_BUT[script].split()
    return SCRIPT_LANGUAGE.get(script) == language or language in _ALSO_READS.get(script, "").split()


def ordinary_letters(text: str) -> str:
    """`text` with full-width, half-width, mathematical and joined letters and digits as the plain ones."""
    return unicodedata.normalize("NFC", "".join(_plain(char) for char in text))


def _plain(char: str) -> str:
    form = unicodedata.decomposition(char).split(" ")[0]
    other = form in _OTHER_FORMS and unicodedata.category(char).startswith(_FORMS_OF) and char != "\u00b5"  # micro
    return unicodedata.normalize("NFKC", char) if other else char


def legible(text: str, language: str, spells: Callable[[str], bool], voice: str) -> Legible:
    """What a voice of `language` can read of `text`.

    spells: whether the library says the code of a letter instead of reading it. A few letters that cannot be read are
    left out, with a note. Raises InvalidInput if they are more than a few, or kanji in Japanese, where they carry the
    meaning.
    """
    spells = functools.cache(spells)
    plain = _bare_accents(ordinary_letters(text), spells)
    unread = [run for run in _runs(plain) if not _is_read(run, language, spells)]
    foreign = Counter(run.script for run in unread for letter in run.letters if letter.isalpha())
    if not foreign:
        return Legible(plain)
    worst = max(foreign, key=lambda script: foreign[script])
    if language == "ja" and "CJK" in foreign:
        raise InvalidInput(
            "espeak-ng reads Japanese in kana only: it has no readings for kanji; write the text in kana, or name "
            "another deployment whose model reads Japanese, such as a LLASA that was trained for it",
            param="input",
        )
    if sum(foreign.values()) > _MOST_LEFT_OUT * sum(char.isalpha() for char in plain):
        raise InvalidInput(_refusal(worst, voice), param="input")
    return Legible(_without(plain, unread), (_left_out(unread, voice),))


def _bare_accents(text: str, spells: Callable[[str], bool]) -> str:
    """`text` with accents taken off where the voice has no name for the accented letter, but reads the bare one."""

    def bare(char: str) -> str:
        base = unicodedata.normalize("NFD", char)[0]
        return base if base != char and char.isalpha() and script_of(char) == "LATIN" and spells(char) else char

    return "".join(char if char.isascii() else bare(char) for char in text)


@dataclass(frozen=True, slots=True)
class _Run:
    """Letters of one script that stand together in a text, with the marks on them. start: index of the first."""

    start: int
    letters: str
    script: str


def _runs(text: str) -> Iterator[_Run]:
    """All letters of `text`, cut where no letter stands and where the script changes."""
    scripts: list[str] = []  # of each character; "": no letter
    for char in text:
        mark = unicodedata.category(char).startswith("M") or char in _JOINERS
        known = script_of(char) if char.isalpha() else ""
        scripts.append((scripts[-1] if scripts else "") if mark else known)
    start = 0
    for script, group in itertools.groupby(scripts):
        length = len(list(group))
        if script:
            yield _Run(start, text[start : start + length], script)
        start += length


def _is_read(run: _Run, language: str, spells: Callable[[str], bool]) -> bool:
    if run.script in _KNOWN and not reads(language, run.script):
        return _is_name(run)
    return run.script == "CJK" or not any(
        spells(letter) for letter in run.letters if letter.isalpha() and not letter.isascii()
    )


def _is_name(run: _Run) -> bool:
    """A letter alone, and capitals such as USB, are meant to be said by their names."""
    alone = sum(letter.isalpha() for letter in run.letters) == 1
    return run.script in _NAMED_WHEN_ALONE and (alone or (run.script == "LATIN" and run.letters.isupper()))


def _without(text: str, parts: list[_Run]) -> str:
    pieces, last = [], 0
    for part in parts:
        pieces.append(text[last : part.start])
        last = part.start + len(part.letters)
    return " ".join([*pieces, text[last:]])


def _left_out(parts: list[_Run], voice: str) -> str:
    count, shown = sum(len(part.letters) for part in parts), " ".join(part.letters for part in parts)
    shown = shown[:_MOST_SHOWN] + ("..." if len(shown) > _MOST_SHOWN else "")
    return f"left out {count} letters that the espeak-ng voice {voice} cannot read: {shown}"


def _refusal(script: str, voice: str) -> str:
    name = {"CJK": "Chinese"}.get(script, script.title())
    known = SCRIPT_LANGUAGE.get(script) or ("en-us" if script == "LATIN" else "")
    advice = (
        f"the voice {known} can" if known else "no voice of espeak-ng can: name another deployment, such as a LLASA"
    )
    return f"the espeak-ng voice {voice!r} cannot read {name} letters; {advice}"
