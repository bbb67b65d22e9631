"""How much of what was said was heard: word errors, and character errors for languages written without spaces.

Knows no recogniser and no audio.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

UNSPACED = frozenset({"ja", "zh", "yue", "th", "lo", "my", "km"})  # counted in characters


def units(text: str, language: str) -> list[str]:
    """The words of a text, or its characters where the language has no spaces: lower case, NFKC, without marks."""
    plain = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    if language in UNSPACED:
        return [character for character in plain if character.isalnum() or character == "ー"]
    letters = "".join(character if character.isalnum() or character == "'" else " " for character in plain)
    return letters.split()


def edits(said: Sequence[str], recognized: Sequence[str]) -> int:
    """Fewest insertions, deletions and replacements that make one of the other (Levenshtein)."""
    row = list(range(len(recognized) + 1))
    for i, unit in enumerate(said, 1):
        before, row[0] = row[:], i
        for j, other in enumerate(recognized, 1):
            row[j] = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (unit != other))
    return row[-1]


def error_rate(said: str, recognized: str, language: str) -> float:
    """Edits per word (or character) that was said; 0 = all came back, and more than 1 is possible."""
    reference = units(said, language)
    return edits(reference, units(recognized, language)) / max(1, len(reference))
