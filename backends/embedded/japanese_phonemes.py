"""Japanese text to the phonemes that Kokoro was trained on.

The readings (kanji, numbers, dates, counters, usual English words) come from pyopenjtalk-plus; the table from kana to
phonemes is that of misaki 0.7.4 (Apache-2.0). Pitch accent is not written in this alphabet. Knows no model.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any

from backends.data_packages import INSTALL
from backends.interface import ModelUnavailable

# One or two kana and their phonemes. Two kana are one sound, so the longer entry is taken first.
_TABLE = """
ぁ=a あ=a ぃ=i い=i ぅ=ɯ う=ɯ ぇ=e え=e ぉ=o お=o か=ka が=ɡa き=kʲi ぎ=ɡʲi く=kɯ ぐ=ɡɯ け=ke げ=ɡe
こ=ko ご=ɡo さ=sa ざ=ʣa し=ɕi じ=ʥi す=sɨ ず=zɨ せ=se ぜ=ʣe そ=so ぞ=ʣo た=ta だ=da ち=ʨi ぢ=ʥi つ=ʦɨ
づ=zɨ て=te で=de と=to ど=do な=na に=ɲi ぬ=nɯ ね=ne の=no は=ha ば=ba ぱ=pa ひ=çi び=bʲi ぴ=pʲi
ふ=ɸɯ ぶ=bɯ ぷ=pɯ へ=he べ=be ぺ=pe ほ=ho ぼ=bo ぽ=po ま=ma み=mʲi む=mɯ め=me も=mo ゃ=ja や=ja ゅ=jɯ
ゆ=jɯ ょ=jo よ=jo ら=ɾa り=ɾʲi る=ɾɯ れ=ɾe ろ=ɾo ゎ=βa わ=βa ゐ=i ゑ=e を=o ゔ=vɯ ゕ=ka ゖ=ke いぇ=je
うぃ=βi うぇ=βe うぉ=βo きぇ=kʲe きゃ=kʲa きゅ=kʲɨ きょ=kʲo ぎゃ=ɡʲa ぎゅ=ɡʲɨ ぎょ=ɡʲo くぁ=kᵝa くぃ=kᵝi
くぇ=kᵝe くぉ=kᵝo ぐぁ=ɡᵝa ぐぃ=ɡᵝi ぐぇ=ɡᵝe ぐぉ=ɡᵝo しぇ=ɕe しゃ=ɕa しゅ=ɕɨ しょ=ɕo じぇ=ʥe じゃ=ʥa じゅ=ʥɨ
じょ=ʥo ちぇ=ʨe ちゃ=ʨa ちゅ=ʨɨ ちょ=ʨo ぢゃ=ʥa ぢゅ=ʥɨ ぢょ=ʥo つぁ=ʦa つぃ=ʦʲi つぇ=ʦe つぉ=ʦo てぃ=tʲi
てゅ=tʲɨ でぃ=dʲi でゅ=dʲɨ とぅ=tɯ どぅ=dɯ にぇ=ɲe にゃ=ɲa にゅ=ɲɨ にょ=ɲo ひぇ=çe ひゃ=ça ひゅ=çɨ ひょ=ço
びゃ=bʲa びゅ=bʲɨ びょ=bʲo ぴゃ=pʲa ぴゅ=pʲɨ ぴょ=pʲo ふぁ=ɸa ふぃ=ɸʲi ふぇ=ɸe ふぉ=ɸo ふゅ=ɸʲɨ ふょ=ɸʲo
みゃ=mʲa みゅ=mʲɨ みょ=mʲo りゃ=ɾʲa りゅ=ɾʲɨ りょ=ɾʲo ゔぁ=va ゔぃ=vʲi ゔぇ=ve ゔぉ=vo ゔゅ=bʲɨ ゔょ=bʲo ヷ=va
ヸ=vʲi ヹ=ve ヺ=vo
"""
_PHONEMES: Mapping[str, str] = {kana: sound for kana, _, sound in (entry.partition("=") for entry in _TABLE.split())}
_MARKS: Mapping[str, str] = {
    "、": ",", "。": ".", "「": "“", "」": "”", "『": "“", "』": "”", "！": "!", "？": "?", "，": ",", "．": ".",
    "：": ":",
    "；": ";", "…": "…", "‥": "…", "・": " ", "—": "—", "―": "—", "（": "(", "）": ")", "!": "!", "?": "?", ",": ",",
    ".": ".",
    ":": ":", ";": ";", "(": "(", ")": ")", "“": "“", "”": "”", "〜": " ", "～": " ",
}  # fmt: skip
_OPENING, _CLOSING = "“(", ",.!?:;…—”)"
_NOT_SPOKEN = {ord(mark): None for mark in "’'"}  # behind a vowel that is whispered
_NO_WORD: Mapping[str, Any] = {"pron": "", "pos": "", "pos_group1": "", "chain_flag": 0}
_ELLIPSIS = re.compile(r"\.{2,}|・{2,}")
_RANGE = "〜～"
_LATIN = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*")
_PARTS = re.compile(r"[A-Z]+(?![a-z'])|[A-Z]?[a-z']+")  # of a word like JavaScript or OpenAI
_SPOKEN_VOWEL = re.compile("[aeiouy]", re.IGNORECASE)
_LONGEST_ACRONYM = 4  # letters; more in capitals are a word
# Letters as the dictionary reads a word that it does not have.
_LETTER_NAMES: Mapping[str, str] = {
    "A": "エ[イー]", "B": "ビー", "C": "シー", "D": "ディー", "E": "イー", "F": "エフ", "G": "ジー", "H": "エイチ",
    "I": "アイ", "J": "ジェ[イー]", "K": "ケ[イー]", "L": "エル", "M": "エム", "N": "エヌ", "O": "オー", "P": "ピー",
    "Q": "キュー", "R": "アール", "S": "エス", "T": "ティー", "U": "ユー", "V": "ブイ", "W": "ダブリュー",
    "X": "エックス", "Y": "ワイ", "Z": "ゼット",
}  # fmt: skip
_KATAKANA_TO_HIRAGANA = {code: code - 0x60 for code in range(ord("ァ"), ord("ヶ") + 1)}


class JapaneseFrontEnd:
    """Japanese, or Japanese with English words in it, to Kokoro's phonemes."""

    def __init__(self, english: Callable[[str], str]) -> None:
        """english: an English word in katakana, "" if it has no sound."""
        self._readings = partial(_reading_engine(), use_sudachi_kanji_yomi=False)
        self._english = english
        self._has = lru_cache(4096)(self._look_up)

    def phonemes(self, text: str) -> str:
        """Words separated by spaces, marks behind their word. "" if there is nothing to say."""
        spoken = ""
        for sound in _sounds(self._readings(self.with_known_words(_normalized(text)))):
            if sound[0] in _CLOSING:
                spoken = f"{spoken.rstrip()}{sound} "
            elif sound[0] in _OPENING:
                spoken = f"{spoken.rstrip()} {sound}"
            else:
                spoken += f"{sound} "
        return spoken.strip()

    def with_known_words(self, text: str) -> str:
        """`text` with the English words that the dictionary would spell letter by letter in katakana."""
        return _LATIN.sub(self._word, text)

    def _word(self, found: re.Match[str]) -> str:
        word = found.group()
        behind_digit = found.string[: found.start()][-1:].isdigit()
        if self._is_left(word) or (behind_digit and len(word) <= 2):  # 5km
            return word
        return self._known(word) or " ".join(self._part(part) for part in _PARTS.findall(word))

    def _part(self, part: str) -> str:
        return part if self._is_left(part) else self._known(part) or self._english(part) or part

    def _known(self, word: str) -> str:
        """The word as the dictionary has it, which may know Hello but not hello; "" if it has not."""
        return next(filter(self._has, (word, word.capitalize(), word.lower())), "")

    def _is_left(self, word: str) -> bool:
        """Whether a word that the dictionary does not have is spelled by people, too."""
        is_acronym = word.isupper() and len(word) <= _LONGEST_ACRONYM
        return len(word) == 1 or is_acronym or not _SPOKEN_VOWEL.search(word)

    def _look_up(self, word: str) -> bool:
        """Whether the dictionary has a word: as one, not letter by letter."""
        found = self._readings(word)
        letters = "".join(_LETTER_NAMES.get(char, "") for char in word.upper())
        return len(found) == 1 and not re.fullmatch(letters, str(found[0]["pron"]).translate(_NOT_SPOKEN))


def _sounds(words: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Phonemes of each word or mark; what is spoken as one word is one."""
    kana, before = "", _NO_WORD
    for word in words:
        reading = _reading(word)
        if kana and not (reading and _is_one_word(before, word)):
            yield from filter(None, [kana_phonemes(kana)])
            kana = ""
        kana += reading
        if not reading and (marks := _marks(word)):
            yield marks
        before = word
    yield from filter(None, [kana_phonemes(kana)])


def _is_one_word(before: Mapping[str, Any], word: Mapping[str, Any]) -> bool:
    """Whether the dictionary has cut within a sound (kat-ta, yon-da), or a number with its counter."""
    if str(before["pron"]).endswith("ッ"):
        return True
    if before["pos"] == "動詞" and str(before["pron"]).endswith("ン"):
        return word["pos"] in ("助動詞", "助詞")
    return bool(before["pos_group1"] == "数" and word["chain_flag"] == 1)


def kana_phonemes(kana: str) -> str:
    """Phonemes of a word in kana of either kind; characters that are no kana are left out."""
    kana = kana.translate(_KATAKANA_TO_HIRAGANA)
    sounds, index = list[str](), 0
    while index < len(kana):
        size = 2 if kana[index : index + 2] in _PHONEMES else 1
        behind = kana[index + size : index + size + 2]
        sounds.append(_sound(kana[index : index + size], behind))
        index += size
    return "".join(sounds)


def _sound(kana: str, behind: str) -> str:
    if kana == "っ":
        return "ʔ"
    if kana == "ー":
        return "ː"
    if kana == "ん":
        return _nasal(_PHONEMES.get(behind, _PHONEMES.get(behind[:1], "")))
    return _PHONEMES.get(kana, "")


def _nasal(following: str) -> str:
    """The sound of ん, which is made where the sound behind it is made."""
    for nasal, beginnings in (("m", "mpb"), ("ŋ", "kɡ"), ("ɲ", "ɲʨʥ"), ("n", "ntdɾz")):
        if following[:1] and following[0] in beginnings:
            return nasal
    return "ɴ"


def _reading(word: Mapping[str, Any]) -> str:
    """A word's kana; "" for a mark."""
    kana = str(word["pron"]).translate(_NOT_SPOKEN)
    return kana if kana_phonemes(kana) else ""


def _marks(word: Mapping[str, Any]) -> str:
    return "".join(_MARKS.get(char, "") for char in str(word["string"])).strip()


def _normalized(text: str) -> str:
    """One spelling of each character, with full-width katakana; the wave between two numbers means "from .. to"."""
    composed = unicodedata.normalize("NFKC", "".join(_read_range(text)))
    return " ".join(_ELLIPSIS.sub("…", composed).split())


def _read_range(text: str) -> list[str]:
    found = []
    for index, char in enumerate(text):
        before, behind = text[index - 1 : index], text[index + 1 : index + 2]
        found.append("から" if char in _RANGE and before and behind.isdigit() else char)
    return found


def _reading_engine() -> Callable[..., list[dict[str, Any]]]:
    import backends.onnx_runtime  # noqa: F401 # before it, as it imports onnxruntime where it has a use for that

    try:
        import pyopenjtalk
    except ImportError as error:
        raise ModelUnavailable(f"Japanese needs pyopenjtalk-plus ({error}); run: {INSTALL}") from error
    engine: Callable[..., list[dict[str, Any]]] = pyopenjtalk.run_frontend
    return engine
