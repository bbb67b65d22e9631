"""English words in katakana, as Japanese says them: for words in a Japanese text that its dictionary does not have.

Owns how an English sound becomes kana. The sounds come from espeak-ng's British voice, whose vowels are those that
loanwords keep (no r behind a vowel); an unstressed vowel is taken from the spelling, as loanwords do (computer is
コンピューター). Knows no model and no sentence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

SOUNDS_VOICE = "en-gb-x-rp"  # the espeak-ng voice whose IPA this module reads

# English consonant -> its kana before a, i, u, e, o, and alone.
_ROWS = """
p パ ピ プ ペ ポ プ
b バ ビ ブ ベ ボ ブ
t タ ティ トゥ テ ト ト
d ダ ディ ドゥ デ ド ド
k カ キ ク ケ コ ク
ɡ ガ ギ グ ゲ ゴ グ
f ファ フィ フ フェ フォ フ
v バ ビ ブ ベ ボ ブ
θ サ シ ス セ ソ ス
ð ザ ジ ズ ゼ ゾ ズ
s サ シ ス セ ソ ス
z ザ ジ ズ ゼ ゾ ズ
ʃ シャ シ シュ シェ ショ シュ
ʒ ジャ ジ ジュ ジェ ジョ ジュ
tʃ チャ チ チュ チェ チョ チ
dʒ ジャ ジ ジュ ジェ ジョ ジ
ts ツァ ツィ ツ ツェ ツォ ツ
dz ザ ジ ズ ゼ ゾ ズ
h ハ ヒ フ ヘ ホ フ
x ハ ヒ フ ヘ ホ フ
m マ ミ ム メ モ ム
n ナ ニ ヌ ネ ノ ン
ŋ ンガ ンギ ング ンゲ ンゴ ング
l ラ リ ル レ ロ ル
ɹ ラ リ ル レ ロ ル
r ラ リ ル レ ロ ル
j ヤ イ ユ イェ ヨ イ
w ワ ウィ ウ ウェ ウォ ウ
"""
_KANA: Mapping[str, tuple[str, ...]] = {
    row[0]: tuple(row[1:]) for row in (line.split() for line in _ROWS.strip().splitlines())
}
_ALONE = 5  # place of the kana without a vowel
_WITH_J = {"t": "チ", "d": "デ", "s": "シ", "z": "ジ", "f": "フ", "h": "ヒ", "v": "ビ"}  # before ュ; else the i row
# English vowel -> a row of kana (a, i, u, e, o) and what follows it.
_VOWELS: Mapping[str, tuple[str, str]] = {
    "aɪə": ("a", "イア"), "aʊə": ("a", "ワー"), "aɪɐ": ("a", "イアー"), "aʊɐ": ("a", "ワー"),
    "aɪ": ("a", "イ"), "aʊ": ("a", "ウ"), "ɔɪ": ("o", "イ"),
    "eɪ": ("e", "ー"), "əʊ": ("o", "ー"), "oʊ": ("o", "ー"), "eə": ("e", "ア"), "ɛə": ("e", "ア"), "iə": ("i", "ア"),
    "ɪə": ("i", "ア"), "ʊə": ("u", "ア"), "iː": ("i", "ー"), "uː": ("u", "ー"), "ɑː": ("a", "ー"), "ɔː": ("o", "ー"),
    "ɜː": ("a", "ー"), "ɛː": ("e", "ア"), "a": ("a", ""), "æ": ("a", ""), "ʌ": ("a", ""), "ɑ": ("a", ""),
    "ɒ": ("o", ""), "ɔ": ("o", ""), "o": ("o", ""), "ɛ": ("e", ""), "e": ("e", ""), "ɪ": ("i", ""), "i": ("i", ""),
    "ᵻ": ("i", ""), "ʊ": ("u", ""), "u": ("u", ""), "ə": ("ə", ""), "ɐ": ("ə", ""),
}  # fmt: skip
_ROW = "aiueo"
_SHORT = frozenset("aæʌɑɒɛeɪʊ")  # before a final stop they are said with ッ: click is クリック
_DOUBLED = frozenset({"p", "t", "k", "tʃ", "dʒ", "d", "ɡ", "ʃ", "ts"})
_DOUBLE_LETTERS: Mapping[str, re.Pattern[str]] = {  # within a word: docker is ドッカー, but socket is ソケット
    "k": re.compile("ck(?!et)", re.IGNORECASE),
    "p": re.compile("pp", re.IGNORECASE),
    "ʃ": re.compile("ss", re.IGNORECASE),
}
_SOUND = re.compile(
    "|".join(re.sub("ə$", "ə(?!ʊ)", sound) for sound in sorted((*_KANA, *_VOWELS), key=len, reverse=True))
)  # an əʊ behind a vowel is one sound
_SYLLABIC_L = re.compile(r"[^aeiouy]le[sd]?$", re.IGNORECASE)
_LETTERS = re.compile(r"[aeiouy]+", re.IGNORECASE)
_LETTER_ROW = {"a": "a", "e": "e", "i": "i", "o": "o", "u": "a", "y": "i"}
_SMALL = {"a": "ャ", "u": "ュ", "o": "ョ"}


class EnglishKana:
    """ipa: a text and the name of an espeak-ng voice to IPA."""

    def __init__(self, ipa: Callable[[str, str], str]) -> None:
        self._ipa = ipa
        self.of = lru_cache(4096)(self._of)

    def _of(self, word: str) -> str:
        """Katakana of one English word; "" if it has no sound."""
        sounds = _SOUND.findall(self._ipa(word, SOUNDS_VOICE))
        if _SYLLABIC_L.search(word):  # people is ピープル
            sounds = [sound for index, sound in enumerate(sounds) if sound != "ə" or sounds[index + 1 :][:1] != ["l"]]
        if word.lower().endswith("et") and sounds[-2:] == ["ɪ", "t"]:
            sounds[-2] = "ɛ"
        return _kana(word, sounds)


def _kana(word: str, sounds: list[str]) -> str:
    rows = _rows_of_unstressed(word, [sound for sound in sounds if sound in _VOWELS])
    kana, index = "", 0
    while index < len(sounds):
        sound, behind = sounds[index], sounds[index + 1 : index + 2]
        if sound in _VOWELS:
            row, rest = _vowel(sound, rows, last=not behind)
            kana += "アイウエオ"[_ROW.index(row)] + rest
            index += 1
        elif behind and behind[0] in _VOWELS:
            row, rest = _vowel(behind[0], rows, last=index + 2 == len(sounds))
            doubled = index > 0 and sounds[index - 1] in _SHORT and _has_double(word, sound)
            kana += ("ッ" if doubled else "") + _KANA[sound][_ROW.index(row)] + rest
            index += 2
        elif behind == ["j"] and sounds[index + 2 : index + 3] and sounds[index + 2] in _VOWELS:
            row, rest = _vowel(sounds[index + 2], rows, last=index + 3 == len(sounds))
            kana += _with_j(sound, row) + rest
            index += 3
        else:
            kana += _without_vowel(sounds, index)
            index += 1
    return kana


def _vowel(sound: str, rows: Iterator[str], *, last: bool) -> tuple[str, str]:
    """A vowel's row, and what follows it. rows: for the unstressed vowels of the word, in order."""
    row, rest = _VOWELS[sound]
    if row == "ə":
        row = next(rows)
        row, rest = row.rstrip("ː"), "ー" if row.endswith("ː") and last else ""
    if last and sound in ("i", "ɪ"):
        rest = "ー"
    return row, "イ" if last and sound == "eɪ" else rest


def _rows_of_unstressed(word: str, vowels: list[str]) -> Iterator[str]:
    """For each ə the row of its letters, with "ː" where an r is behind them; "a" where the spelling does not fit."""
    groups = [*_LETTERS.finditer(word)]
    if len(groups) == len(vowels) + 1 and groups[-1].group().lower() == "e" and groups[-1].end() == len(word):
        groups.pop()  # a silent e
    fits = len(groups) == len(vowels)
    for place, vowel in enumerate(vowels):
        if _VOWELS[vowel][0] == "ə":
            letters, behind = (groups[place].group(), word[groups[place].end() :][:1]) if fits else ("a", "")
            long = behind in ("r", "R")
            yield ("a" if long else _LETTER_ROW[letters[-1].lower()]) + ("ː" if long else "")


def _has_double(word: str, sound: str) -> bool:
    return sound in _DOUBLE_LETTERS and bool(_DOUBLE_LETTERS[sound].search(word))


def _with_j(sound: str, row: str) -> str:
    """A consonant, j and a vowel: キュ; シェ for e, シ for i."""
    base = _WITH_J.get(sound, _KANA[sound][1])
    return base + (_SMALL.get(row, "" if row == "i" else "ェ"))


def _without_vowel(sounds: list[str], index: int) -> str:
    sound, before, behind = sounds[index], sounds[index - 1] if index else "", sounds[index + 1 : index + 2]
    if sound == "m" and behind and behind[0] in ("p", "b"):
        return "ン"
    if sound == "ŋ" and behind and behind[0] in ("k", "ɡ"):
        return "ン"
    ends = not behind or (behind == ["s"] and index + 2 == len(sounds))
    doubled = ends and before in _SHORT and (sound == "k" if behind else sound in _DOUBLED)
    return ("ッ" if doubled else "") + _KANA[sound][_ALONE]
