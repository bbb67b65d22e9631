"""A text as a person would read it aloud: what is said, where it rests, and what was left out.

Owns the order of the rules and the notes. Knows no voice; the rules are in `markup` and `symbols`.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from backends.spoken_text import markup, symbols

LONGEST_PAUSE, LONGEST_PAUSES = 10.0, 60.0  # seconds of one pause, and of all of a text
_BLANKS = re.compile(r"[ \t\u00a0]{2,}")
_LOOSE_MARK = re.compile(r"[ \t]+(?=[,.!?;:…](?:\s|$))")
_SAYABLE = frozenset("%&@+=°§±×÷")  # signs that are words of their own


@dataclass(frozen=True, slots=True)
class Piece:
    """text: to say, "" for none; pause: seconds of silence behind it."""

    text: str
    pause: float = 0.0


@dataclass(frozen=True, slots=True)
class Reading:
    """pieces: in order, () if there is nothing to say; notes: what was left out."""

    pieces: tuple[Piece, ...]
    notes: tuple[str, ...] = ()


def read(text: str, language: str) -> Reading:
    """`text` as a person reads it. language: its primary code, "" if unknown."""
    notes = []
    text = text.replace(markup.PAUSE, "").replace(markup.PAUSE_END, "")
    text, blocks = markup.without_code_blocks(text)
    text, tags = markup.without_tags(text)
    text = markup.without_markdown(markup.with_pauses(text), "。" if language in ("ja", "zh", "cmn") else ".")
    text, cut = symbols.with_spoken_addresses(text, language)
    text, pictures = symbols.without_pictures(symbols.with_spoken_symbols(text, language), language)
    for count, what in (
        (blocks, "code blocks"),
        (tags, "tags"),
        (pictures, "emoji or pictures"),
        (cut, "ends of addresses"),
    ):
        if count:
            notes.append(f"not read out: {what} ({count})")
    pieces, shortened = _pieces(_tidy(text))
    if shortened:
        notes.append(f"pauses were cut at {LONGEST_PAUSE:.0f} s each and {LONGEST_PAUSES:.0f} s in all")
    return Reading(pieces, tuple(notes))


def plain(text: str) -> Reading:
    """`text` as it is."""
    return Reading((Piece(text),) if has_words(text) else ())


def has_words(text: str) -> bool:
    """Whether there is anything to say: a letter, a digit, or a sign that is a word."""
    return any(char.isalnum() or char in _SAYABLE or unicodedata.category(char) == "Sc" for char in text)


def _tidy(text: str) -> str:
    return _LOOSE_MARK.sub("", _BLANKS.sub(" ", text))


def _pieces(text: str) -> tuple[tuple[Piece, ...], bool]:
    """The pieces, and whether a pause was made shorter. A pause behind no words is the pause of the piece before."""
    pieces: list[Piece] = []
    left, asked = LONGEST_PAUSES, 0.0
    for words, pause in markup.split_at_pauses(text):
        allowed = min(pause, LONGEST_PAUSE, left)
        asked, left = asked + pause, left - allowed
        said = words.strip() if has_words(words) else ""
        if said or not pieces:
            pieces.append(Piece(said, allowed))
        else:
            pieces[-1] = Piece(pieces[-1].text, pieces[-1].pause + allowed)
    spoken = tuple(piece for piece in pieces if piece.text or piece.pause)
    return spoken, asked > LONGEST_PAUSES - left + 1e-6
