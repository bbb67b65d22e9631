"""Words of another script within a text, such as 世界 in an English sentence, spoken by the voice of the sentence.

Owns which script is read by which language, and how its sounds become those that the voice has. Knows no model.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping

from backends.embedded.espeak_phonemes import EspeakPhonemizer
from backends.embedded.espeak_scripts import SCRIPT_LANGUAGE, script_of
from backends.embedded.japanese_phonemes import JapaneseFrontEnd
from backends.embedded.speakable import is_surely_chinese
from backends.interface import ModelUnavailable

# Sounds of Japanese, Chinese and other languages as the nearest ones of English, longer entries first. A voice that
# learned English only has letters for the others, but has never said them.
ENGLISH_SOUNDS: Mapping[str, str] = {
    "ts.": "ts",
    "tɕ": "tʃ",
    "dʑ": "dʒ",
    "ts\u02b0": "ts",
    "ɯː": "uː",
    "ɯ": "uː",
    "ɨ": "ɪ",
    "ʨ": "tʃ",
    "ʥ": "dʒ",
    "ʣ": "z",
    "ʦ": "ts",
    "ɕ": "ʃ",
    "ʑ": "ʒ",
    "ʂ": "ʃ",
    "ʐ": "ɹ",
    "ɸ": "f",
    "β": "w",
    "ᵝ": "w",
    "ç": "h",
    "x": "h",
    "χ": "h",
    "ɲ": "nj",
    "ɴ": "n",
    "ʲ": "j",
    "y": "iː",
    "ɤ": "ʌ",
    "ɑ": "ɑː",
    "r": "ɹ",
    "ʔ": "",
}
_TONE = re.compile(r"[0-9˥˦˧˨˩]")
_MARKS = ",.;:!?…、。，！？；："
_CHINESE = frozenset({"CJK", "BOPOMOFO"})
_JAPANESE = frozenset({"HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HALFWIDTH"})
_OWN = frozenset(
    {"LATIN", "FULLWIDTH", "FEMININE", "MASCULINE", "MODIFIER", "MICRO", "OHM", "KELVIN", "ANGSTROM", "GREEK"}
)


def readable_scripts(japanese: bool) -> frozenset[str]:
    """First words of the Unicode names of the letters that are read beside Latin. japanese: its readings are here."""
    scripts = {*SCRIPT_LANGUAGE, "IDEOGRAPHIC"} - _OWN
    return frozenset(scripts if japanese else scripts - _JAPANESE)


class MixedFrontEnd:
    """A front end of Latin text that gives other scripts to the languages which are written in them."""

    def __init__(
        self,
        own: Callable[[str], str],
        phonemizer: EspeakPhonemizer,
        japanese: Callable[[], JapaneseFrontEnd],
        sounds: Mapping[str, str],
    ) -> None:
        """own: text to phonemes of the voice; sounds: what phonemes of other languages become."""
        self._own, self._phonemizer, self._japanese = own, phonemizer, japanese
        self._sounds = sounds
        self._sound = re.compile("|".join(map(re.escape, sounds))) if sounds else None

    def phonemes(self, text: str) -> str:
        spoken: list[str] = []
        for script, run in _runs(text):
            sounds = self._own(run) if script in _OWN else self._foreign(run, script)
            if sounds:
                spoken.append(sounds)
        return " ".join(spoken)

    def _foreign(self, run: str, script: str) -> str:
        words = run.rstrip(_MARKS + " ")
        sounds = (
            self._japanese_or_chinese(words, script) if script in _CHINESE | _JAPANESE else self._espeak(words, script)
        )
        if self._sound is not None:
            sounds = self._sound.sub(lambda found: self._sounds[found.group()], sounds)
        mark = next((char for char in unicodedata.normalize("NFKC", run[len(words) :]) if char in _MARKS), "")
        return sounds + {"、": ",", "。": "."}.get(mark, mark) if sounds else ""

    def _japanese_or_chinese(self, words: str, script: str) -> str:
        if script in _JAPANESE or not is_surely_chinese(words):
            try:
                return self._japanese().phonemes(words)
            except ModelUnavailable:
                if script in _JAPANESE:
                    return ""
        return _TONE.sub("", self._phonemizer.ipa(words, "cmn"))

    def _espeak(self, words: str, script: str) -> str:
        return self._phonemizer.ipa(words, SCRIPT_LANGUAGE[script]) if script in SCRIPT_LANGUAGE else ""


def _runs(text: str) -> Iterator[tuple[str, str]]:
    """Pieces of one script with the signs behind them: ("LATIN", "Hello "), ("CJK", "世界!")."""
    # Kana make the kanji beside them Japanese.
    current, run = "LATIN", ""
    for char in text:
        script = _script(char) or current
        if script != current and not (current in _JAPANESE and script in _CHINESE):
            if script in _JAPANESE and current in _CHINESE:
                current = script
            else:
                if run.strip():
                    yield current, run
                current, run = script, ""
        run += char
    if run.strip():
        yield current, run


def _script(char: str) -> str:
    """The script of a letter; "" for what belongs to the letters before it. Digits are read by the voice."""
    if char.isdigit() and char.isascii():
        return "LATIN"
    if not char.isalpha():
        return ""
    script = script_of(char)
    return "LATIN" if script in _OWN else script
