"""Voice names: what a request may ask for, and which espeak-ng voice speaks a given text.

Owns the mapping from language codes, espeak identifiers and the OpenAI names to library voices, and the knowledge of which
scripts a voice can read (espeak spells out letters of a foreign script by name, which nobody wants to hear).
Knows no audio.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from backends.embedded.espeak_library import LibraryVoice
from backends.interface import InvalidInput, Voice

# The names that OpenAI's clients send, each a variant of the deployment's language; "": the plain voice, which pocketsphinx
# understands best.
SPEAKERS: Mapping[str, str] = {
    "alloy": "", "ash": "m1", "ballad": "m6", "cedar": "m8", "coral": "f4", "echo": "m2", "fable": "m4", "marin": "f5",
    "nova": "f3", "onyx": "m7", "sage": "f1", "shimmer": "linda", "verse": "m3",
}  # fmt: skip

_LISTED_VARIANTS = ("f2", "f3", "f4", "m2", "m3", "m7")
_LISTED_LANGUAGES = (
    "ar", "cmn", "de", "en-gb", "en-us", "es", "es-419", "fr-fr", "hi", "it", "ja", "ko", "nl", "pl", "pt", "pt-br", "ru", "tr",
)  # fmt: skip

# Script of a letter -> language that speaks it when the request names no language.
_SCRIPT_LANGUAGE: Mapping[str, str] = {
    "ARABIC": "ar", "ARMENIAN": "hy", "BENGALI": "bn", "CJK": "cmn", "CYRILLIC": "ru", "DEVANAGARI": "hi", "ETHIOPIC": "am",
    "GEORGIAN": "ka", "GREEK": "el", "GUJARATI": "gu", "GURMUKHI": "pa", "HANGUL": "ko", "HEBREW": "he", "HIRAGANA": "ja",
    "KANNADA": "kn", "KATAKANA": "ja", "KATAKANA-HIRAGANA": "ja", "MALAYALAM": "ml", "MYANMAR": "my", "ORIYA": "or",
    "SINHALA": "si", "TAMIL": "ta", "TELUGU": "te", "THAI": "th",
}  # fmt: skip

# Languages that share a script with the one above (primary codes).
_ALSO_READS: Mapping[str, str] = {
    "ARABIC": "fa ku sd ug ur", "BENGALI": "as bpy", "CJK": "hak yue", "CYRILLIC": "ba be bg cv kk ky mk nog sr tt uk",
    "DEVANAGARI": "kok mr ne", "ETHIOPIC": "ti", "GREEK": "grc", "ARMENIAN": "hyw",
}  # fmt: skip

# espeak-ng changes to these scripts' own language inside any text, and reads Latin letters as English elsewhere.
_READ_BY_ALL = frozenset({"LATIN", "ARMENIAN", "DEVANAGARI", "GEORGIAN", "HANGUL"})
_UNREADABLE_SHARE = 0.2  # of all letters; below it a few foreign letters are spoken by name


@dataclass(frozen=True, slots=True)
class Choice:
    """identifier: for the library; label: for people; language: primary code."""

    identifier: str
    label: str
    language: str


class VoiceBook:
    """All voices of the loaded library under the names that requests may use."""

    def __init__(self, voices: Iterable[LibraryVoice], variants: frozenset[str], default: str) -> None:
        self._voices = list(voices)
        self._variants = variants
        self._by_code: dict[str, LibraryVoice] = {}
        ranked = sorted(
            ((priority, index, code.lower()) for index, v in enumerate(self._voices) for priority, code in v.languages)
        )
        for _, index, code in ranked:
            self._by_code.setdefault(code, self._voices[index])
        for voice in self._voices:
            self._by_code.setdefault(voice.identifier.lower(), voice)
            self._by_code.setdefault(voice.name.lower(), voice)
        self._default = default

    def listed(self) -> tuple[Voice, ...]:
        """The voices to show: the speakers, one voice per language, and variants of the widely used languages."""
        speakers = [Voice(name, f"{name} (espeak-ng {variant or 'plain'})") for name, variant in SPEAKERS.items()]
        plain = [Voice(self._id(v), v.name.strip(), tuple(code for _, code in v.languages)) for v in self._voices]
        variants = [
            Voice(f"{code}+{variant}", f"{self._by_code[code].name.strip()}, {variant}", (code,))
            for code in _LISTED_LANGUAGES
            if code in self._by_code
            for variant in _LISTED_VARIANTS
        ]
        return (*speakers, *plain, *variants)

    def _id(self, voice: LibraryVoice) -> str:
        """The voice's language code, or its identifier where another voice answers to that code."""
        code = _code(voice).lower()
        return code if self._by_code[code] is voice else voice.identifier

    def choose(self, name: str, text: str) -> Choice:
        """The library voice for a request. Raises InvalidInput for an unknown name or a text it cannot read."""
        base, _, variant = name.strip().partition("+")
        if base.lower() in SPEAKERS and not variant:
            base, variant = _language_of(text) or self._default, SPEAKERS[base.lower()]
        voice = self._by_code.get(base.replace("_", "-").lower())
        if voice is None or (variant and variant not in self._variants):
            raise InvalidInput(
                f"espeak-ng has no voice {name!r}; name a language such as en-us, de or ja, with or without a variant (en-us+f3)",
                param="voice",
            )
        language = _code(voice).lower().split("-")[0]
        _refuse_unreadable(text, language, name)
        return Choice(voice.identifier + (f"+{variant}" if variant else ""), name, language)


def _code(voice: LibraryVoice) -> str:
    return min(voice.languages, key=lambda ranked: ranked[0])[1] if voice.languages else voice.identifier


def _scripts(text: str) -> Counter[str]:
    """How many letters of each script `text` has; the script is the first word of the letter's Unicode name."""
    return Counter(unicodedata.name(char, "UNKNOWN").split(" ")[0] for char in text if char.isalpha())


def _language_of(text: str) -> str | None:
    """The language of a text in a script that is not Latin; None for Latin or none."""
    scripts = _scripts(text)
    if any(script.startswith(("HIRAGANA", "KATAKANA")) for script in scripts):
        return "ja"  # Japanese mixes kana with Chinese characters
    most = max(scripts, key=lambda script: scripts[script], default="LATIN")
    return _SCRIPT_LANGUAGE.get(most)


def _reads(language: str, script: str) -> bool:
    if script in _READ_BY_ALL or _SCRIPT_LANGUAGE.get(script) == language:
        return True
    return language in _ALSO_READS.get(script, "").split()


def _refuse_unreadable(text: str, language: str, voice: str) -> None:
    scripts = _scripts(text)
    foreign = {script: count for script, count in scripts.items() if not _reads(language, script)}
    if sum(foreign.values()) <= _UNREADABLE_SHARE * sum(scripts.values()):
        return
    worst = max(foreign, key=lambda script: foreign[script])
    if language == "ja" and worst == "CJK":
        raise InvalidInput("espeak-ng reads Japanese in kana only: it has no readings for kanji", param="input")
    known = _SCRIPT_LANGUAGE.get(worst)
    advice = f"; the voice {known} can" if known else ""
    raise InvalidInput(f"the espeak-ng voice {voice!r} cannot read {worst.title()} letters{advice}", param="input")
