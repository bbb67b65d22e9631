"""Text before it becomes a prompt: control tokens removed, Japanese normalised, references joined.

Knows no tokenizer and no model.
"""

from __future__ import annotations

import re
import unicodedata

_CONTROL = re.compile(r"<\|[^<>|]*\|>")

_JAPANESE_GONE = str.maketrans(dict.fromkeys("\t 　;▼♀♂《》≪≫①②③④⑤⑥˗‐‑‒–—―⁃−⎯⏤─━⸺⸻"))
_JAPANESE_CHANGED = str.maketrans(
    {"～": "ー", "〜": "ー", "？": "?", "！": "!", "●": "○", "◯": "○", "〇": "○", "♥": "♡"}
)
_FOOTNOTE = re.compile(r"\[n\]")
_ELLIPSES = re.compile(r"…{3,}")
_HALF_KATAKANA = re.compile(r"[･-ﾟ]+")
_FULL_LATIN = re.compile(r"[０-９Ａ-Ｚａ-ｚ]+")
_OUTSIDE_TRAINING = re.compile(r"[^぀-ゟ゠-ヿ一-鿿㐀-䶿々A-Za-z0-9。、!?…♪♡○]")


def neutralised(text: str) -> str:
    """Text without anything that the tokenizer would read as a control token; repeated, as removal can create new
    ones."""
    while (shorter := _CONTROL.sub("", text)) != text:
        text = shorter
    return text


def joined(reference: str, text: str) -> str:
    """A reference's transcript and the text to speak: one space between them, none where both sides are Chinese or
    Japanese."""
    if not reference or not text:
        return reference + text
    separator = "" if _is_cjk(_last_letter(reference)) and _is_cjk(_last_letter(text[::-1])) else " "
    return reference + separator + text


def is_japanese(text: str) -> bool:
    """Whether kana make up a good part of the letters."""
    letters = [char for char in text if char.isalpha()]
    kana = sum("぀" <= char <= "ヿ" or "ｦ" <= char <= "ﾟ" for char in letters)
    return bool(letters) and kana * 4 >= len(letters)


def normalised_japanese(text: str, strict: bool = False) -> str:
    """What Japanese fine-tunes were trained on. It deletes all spaces, so it must never see a language that needs them.

    strict: also delete every character outside the trainer's set.
    """
    text = _FOOTNOTE.sub("", text).translate(_JAPANESE_GONE).translate(_JAPANESE_CHANGED)
    text = _HALF_KATAKANA.sub(lambda match: unicodedata.normalize("NFKC", match.group()), text)
    text = _FULL_LATIN.sub(lambda match: unicodedata.normalize("NFKC", match.group()), text)
    text = _ELLIPSES.sub("……", text)
    return _OUTSIDE_TRAINING.sub("", text) if strict else text


def _last_letter(text: str) -> str:
    """The last letter or digit, punctuation passed over; the last character if there is none."""
    return next((char for char in reversed(text) if char.isalnum()), text[-1])


def _is_cjk(char: str) -> bool:
    """Han, kana and their punctuation; not Hangul, which is written with spaces."""
    code = ord(char)
    return (
        0x2E80 <= code <= 0x30FF
        or 0x31F0 <= code <= 0x31FF
        or 0x3400 <= code <= 0x4DBF
        or 0x4E00 <= code <= 0x9FFF
        or 0xF900 <= code <= 0xFAFF
        or 0xFF00 <= code <= 0xFF9F
        or 0x20000 <= code <= 0x3FFFF
    )
