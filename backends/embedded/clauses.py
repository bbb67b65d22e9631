"""Cuts text into the pieces that a neural voice speaks one at a time.

A piece is a sentence, but the first sentences are cut at their clauses: the first sound comes after the first clause,
and each piece may be about twice as long as the one before, so that a voice that is faster than speech stays ahead of
the listener. Knows no voice; where a sentence ends is known by `sentences`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from backends.audio.sentences import sentences

# Letters and digits of speech, measured with `_weight`: about 15 of them are one second.
_FIRST_PIECE = 24.0
_GROWTH = 2.0
_LONGEST_PIECE = 200.0
_SHORTEST_PIECE = 6.0  # a clause of less is spoken with its neighbour

# Behind a western mark only where white space follows, so that 1,234 and 12:30 stay whole.
_CLAUSE_END = re.compile(r"(?<=[,;:…—–])[\"')\]»”’]*\s+|(?<=[、，；：。！？｡])[」』）]*\s*")
# A full stop after these ends no sentence.
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'“‘])(?:mr|mrs|ms|dr|prof|st|sr|jr|gen|col|capt|lt|sgt|rev|hon|mt|vs|no|fig|vol|approx|jan|feb|mar|apr|jun|"
    r"jul|aug|sept?|oct|nov|dec|[a-z])\.$",
    re.IGNORECASE,
)


def clauses(text: str) -> Iterator[str]:
    """The pieces of `text` in order; joined by spaces they are the text but for white space."""
    room = _FIRST_PIECE
    for sentence in _whole_sentences(text):
        for piece in _pieces(sentence, room):
            yield piece
            room = min(_LONGEST_PIECE, max(room, _weight(piece) * _GROWTH))


def _whole_sentences(text: str) -> Iterator[str]:
    """The sentences of `text`, with those joined again that were cut at an abbreviation."""
    held = ""
    for sentence in sentences(text):
        held = f"{held} {sentence}" if held else sentence
        if not _ABBREVIATION.search(held):
            yield held
            held = ""
    if held:
        yield held


def _pieces(sentence: str, room: float) -> Iterator[str]:
    """One sentence, cut at clauses so that the first piece has about `room` and every further one may have twice
    that."""
    held = ""
    for clause in _at_clause_ends(sentence):
        joined = f"{held}{clause}"
        if held and _weight(joined) > room and _weight(held) >= _SHORTEST_PIECE and _weight(clause) >= _SHORTEST_PIECE:
            yield held.strip()
            room = min(_LONGEST_PIECE, room * _GROWTH)
            held = clause
        else:
            held = joined
    if held.strip():
        yield held.strip()


def _at_clause_ends(sentence: str) -> Iterator[str]:
    start = 0
    for match in _CLAUSE_END.finditer(sentence):
        yield sentence[start : match.end()]
        start = match.end()
    yield sentence[start:]


def _weight(text: str) -> float:
    """How much there is to say: one for a letter or digit, two for a wide one, which stands for a syllable or more."""
    return sum(2.0 if unicodedata.east_asian_width(char) in "WF" else 1.0 for char in text if char.isalnum())
