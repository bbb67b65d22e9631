"""Phonemes of languages other than Japanese in the spelling that Kokoro was trained on, made from espeak-ng's IPA.

Kokoro's alphabet writes a diphthong or an affricate as one letter. The rules are those of misaki 0.7 (Apache-2.0),
whose alphabet it is. Knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from backends.embedded.espeak_phonemes import EspeakPhonemizer

TIE = "^"

# Order matters: a rule sees what the rules before it have left.
_ENGLISH = (
    ("ʔˌn\u0329", "tᵊn"), ("ʔn\u0329", "tᵊn"), ("ʔn", "tᵊn"), ("a^ɪ", "I"), ("a^ʊ", "W"), ("d^ʒ", "ʤ"), ("e^ɪ", "A"),
    ("t^ʃ", "ʧ"), ("ɔ^ɪ", "Y"), ("ə^l", "ᵊl"), ("ʲo", "jo"), ("ʲə", "jə"), ("ʲ", ""), ("ɚ", "əɹ"), ("r", "ɹ"), ("x",
    "k"), ("ç", "k"), ("ɐ", "ə"), ("ɬ", "l"), ("\u0303", ""), ("e", "A"), ("ʔ", "t"),
)  # fmt: skip
_AMERICAN = (("o^ʊ", "O"), ("ɜːɹ", "ɜɹ"), ("ɜː", "ɜɹ"), ("ɪə", "iə"), ("ː", ""), ("ɾ", "T"))
_BRITISH_FIRST = (("e^ə", "ɛː"),)  # before the rule for a lone e
_BRITISH = (("iə", "ɪə"), ("ə^ʊ", "Q"))
_SYLLABIC = re.compile("(\\S)\u0329")

# First letter of a Kokoro voice's name -> espeak-ng's name of the language ("en" is its British voice) and its BCP 47
# code.
# Chinese ("z") needs tones, which espeak-ng writes otherwise.
LANGUAGES: Mapping[str, tuple[str, str]] = {
    "a": ("en-us", "en-US"), "b": ("en", "en-GB"), "e": ("es", "es-ES"), "f": ("fr", "fr-FR"), "h": ("hi", "hi-IN"),
    "i": ("it", "it-IT"), "p": ("pt-br", "pt-BR"),
}  # fmt: skip


class KokoroEspeakFrontEnd:
    """Text of one language to Kokoro's phonemes; language: a key of LANGUAGES."""

    def __init__(self, phonemizer: EspeakPhonemizer, language: str) -> None:
        self._phonemizer, self._language = phonemizer, language
        self._voice = LANGUAGES[language][0]

    def phonemes(self, text: str) -> str:
        if self._language not in "ab":
            return self._phonemizer.ipa(text, self._voice)
        spoken = self._phonemizer.ipa(text, self._voice, TIE)
        rules = (*_ENGLISH, *_AMERICAN) if self._language == "a" else (*_BRITISH_FIRST, *_ENGLISH, *_BRITISH)
        for old, new in rules:
            spoken = spoken.replace(old, new)
        return _SYLLABIC.sub(r"ᵊ\1", spoken).replace(TIE, "")
