"""Cuts text into sentences, so that the first can be heard while the rest is still text.

Owns where a cut may fall. Knows no engine and no audio.
"""

from __future__ import annotations

import re

LONGEST = 300  # characters; a sentence above this is cut at a comma or a space, about 20 s of speech

# After a closing mark: a western one needs a space and no lower-case letter behind it ("e.g. this" stays together),
# an East Asian one needs nothing. A line break always ends a sentence.
_END = re.compile(r"(?<=[.!?…])[\"')\]»”’]*\s+(?![a-zß-öø-ÿ])|(?<=[。！？｡])[」』）]*|\n+")
_SOFT = re.compile(r"[,;:、，；：]\s*|\s+")


def sentences(text: str) -> list[str]:
    """The non-empty sentences of `text` in order, none longer than LONGEST; nothing but white space is lost."""
    found: list[str] = []
    start = 0
    for end in [*(match.end() for match in _END.finditer(text)), len(text)]:
        found.extend(_short_enough(text[start:end].strip()))
        start = end
    return found


def _short_enough(sentence: str) -> list[str]:
    parts = []
    while len(sentence) > LONGEST:
        cut = _last_soft_cut(sentence[:LONGEST]) or LONGEST
        parts.append(sentence[:cut].strip())
        sentence = sentence[cut:].strip()
    return [*parts, sentence] if sentence else parts


def _last_soft_cut(text: str) -> int:
    """Where to cut: behind the last comma-like mark of the second half, else behind the last space there; 0:
    nowhere."""
    cuts = [match for match in _SOFT.finditer(text) if match.end() > len(text) // 2]
    commas = [match.end() for match in cuts if not match.group()[0].isspace()]
    return commas[-1] if commas else cuts[-1].end() if cuts else 0
