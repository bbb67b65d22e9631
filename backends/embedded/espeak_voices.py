"""Voice names: what a request may ask for, and which espeak-ng voice speaks a given text.

Owns the mapping from language codes, espeak identifiers and the OpenAI names to library voices. Knows no audio; which
letters a voice reads is the business of `espeak_scripts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from backends.embedded.espeak_info import LICENCE
from backends.embedded.espeak_library import LibraryVoice
from backends.embedded.espeak_scripts import language_of
from backends.interface import InvalidInput, Voice

# Each of OpenAI's names is a variant of the deployment's language; "": the plain voice, which
# recognisers understand best.
SPEAKERS: Mapping[str, str] = {
    "alloy": "", "ash": "m1", "ballad": "m6", "cedar": "m8", "coral": "f4", "echo": "m2", "fable": "m4", "marin": "f5",
    "nova": "f3", "onyx": "m7", "sage": "f1", "shimmer": "linda", "verse": "m3",
}  # fmt: skip

_LISTED_VARIANTS = ("f2", "f3", "f4", "m2", "m3", "m7")
_LISTED_LANGUAGES = (
    "ar", "cmn", "de", "en-gb", "en-us", "es", "es-419", "fr-fr", "hi", "it", "ja", "ko", "nl", "pl", "pt", "pt-br",
    "ru", "tr",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Choice:
    """identifier: for the library; label: for people; language: primary code."""

    identifier: str
    label: str
    language: str


class VoiceCatalog:
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
        plain = [
            Voice(self._id(v), v.name.strip(), tuple(code for _, code in v.languages), LICENCE) for v in self._voices
        ]
        variants = [
            Voice(f"{code}+{variant}", f"{self._by_code[code].name.strip()}, {variant}", (code,), LICENCE)
            for code in _LISTED_LANGUAGES
            if code in self._by_code
            for variant in _LISTED_VARIANTS
        ]
        return (*speakers, *plain, *variants)

    def _id(self, voice: LibraryVoice) -> str:
        """The voice's language code, or its identifier where another voice answers to that code."""
        code = _code(voice).lower()
        return code if self._by_code[code] is voice else voice.identifier

    def choose(self, name: str, text: str, language: str = "") -> Choice:
        """The library voice for a request. language: of the text, where it is known, for names that tell none.
        Raises InvalidInput for an unknown name."""
        base, _, variant = name.strip().partition("+")
        if base.lower() in SPEAKERS and not variant:
            base, variant = language_of(text) or self._own(language), SPEAKERS[base.lower()]
        voice = self._by_code.get(base.replace("_", "-").lower())
        if voice is None or (variant and variant not in self._variants):
            raise InvalidInput(
                f"espeak-ng has no voice {name!r}; name a language such as en-us, de or ja, with or without a "
                f"variant (en-us+f3)",
                param="voice",
            )
        language = _code(voice).lower().split("-")[0]
        return Choice(voice.identifier + (f"+{variant}" if variant else ""), name, language)

    def _own(self, language: str) -> str:
        """The default voice where it speaks the language or none is known, else the first of the language."""
        own = self._by_code.get(self._default.lower())
        known = language in self._by_code and (own is None or _code(own).lower().split("-")[0] != language)
        return language if known else self._default


def _code(voice: LibraryVoice) -> str:
    return min(voice.languages, key=lambda ranked: ranked[0])[1] if voice.languages else voice.identifier
