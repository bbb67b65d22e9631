"""Cuts text into sentences, so that the first can be heard while the rest is still text.

Owns where a cut may fall. Knows no engine and no audio.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

LONGEST = 300  # characters; a sentence above this is cut at a comma or a space, about 20 s of speech

# After a closing mark: a western one needs a space and no lower-case letter behind it ("e.g. this" stays together),
# an East Asian one needs nothing. A line break always ends a sentence.
_END = re.compile(r"(?<=[.!?…])[\"')\]»”’]*\s+(?![a-zß-öø-ÿ])|(?<=[。！？｡])[」』）]*|\n+")
_SOFT = re.compile(r"[,;:、，；：]\s*|\s+")


def sentences(text: str, longest: int = LONGEST) -> list[str]:
    """The non-empty sentences of `text` in order, none longer than `longest`; nothing but white space is lost."""
    return [stripped for part in _parts(text, longest) if (stripped := part.strip())]


def packed_sentences(text: str, longest: int, fill: int) -> list[str]:
    """The sentences of `text`, several to a piece as long as a piece has at most `fill` characters.

    longest: of one sentence. Pieces without a letter or digit are left out.
    """
    pieces: list[str] = []
    for part in _parts(text, longest):
        if pieces and len((pieces[-1] + part).strip()) <= fill:
            pieces[-1] += part
        else:
            pieces.append(part)
    return [piece.strip() for piece in pieces if any(char.isalnum() for char in piece)]


def _parts(text: str, longest: int) -> Iterator[str]:
    """The text cut at the ends of sentences, and within those that are too long; white space stays at the ends."""
    start = 0
    for end in [*(match.end() for match in _END.finditer(text)), len(text)]:
        yield from _short_enough(text[start:end], longest)
        start = end


def _short_enough(sentence: str, longest: int) -> Iterator[str]:
    sentence = sentence.lstrip()
    while len(sentence.rstrip()) > longest:
        cut = _last_soft_cut(sentence[:longest]) or longest
        yield sentence[:cut]
        sentence = sentence[cut:].lstrip()
    if sentence:
        yield sentence


def _last_soft_cut(text: str) -> int:
    """Where to cut: behind the last comma-like mark of the second half, else behind the last space there; 0:
    nowhere."""
    cuts = [match for match in _SOFT.finditer(text) if match.end() > len(text) // 2]
    commas = [match.end() for match in cuts if not match.group()[0].isspace()]
    return commas[-1] if commas else cuts[-1].end() if cuts else 0
