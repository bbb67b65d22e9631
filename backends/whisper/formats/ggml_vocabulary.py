"""What whisper.cpp's files leave to their readers: special tokens, suppressed ones and merges, all from the words.

The special tokens follow the words in the order of every published vocabulary, and merges follow from the words' order.
Knows no weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from backends.interface import ModelUnavailable
from backends.languages import LANGUAGES

_END = b"<|endoftext|>"  # some converters write it behind the words
_BEFORE_LANGUAGES, _BEHIND_LANGUAGES = (
    ("endoftext", "startoftranscript"),
    ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"),
)
_TIMESTAMPS = 1501
_NEVER_SAID = ("startoftranscript", *_BEHIND_LANGUAGES[:-1])
# What a transcript has no use for: speakers' marks, brackets, lone punctuation, notes of music. The decoder of the
# published models is never to begin a word with these.
_MARKS = [
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    "<<",
    ">>",
    "<<<",
    ">>>",
    "--",
    "---",
    "-(",
    "-[",
    "('",
    '("',
    "((",
    "))",
]
_MARKS += ["(((", ")))", "[[", "]]", "{{", "}}", "♪♪", "♪♪♪"]
_NOTES = "♩♪♫♬♭♮♯"
_LONE = (b" -", b" '")


def ordinary(words: Sequence[bytes]) -> Sequence[bytes]:
    """The words before the special tokens."""
    return words[: words.index(_END)] if _END in words else words


def added_tokens(words: Sequence[bytes], vocabulary: int) -> dict[str, int]:
    """Special tokens by name, without timestamps. Raises ModelUnavailable where the vocabulary has no room for them, or
    for more languages than there are."""
    end = len(ordinary(words))
    count = vocabulary - end - len(_BEFORE_LANGUAGES) - len(_BEHIND_LANGUAGES) - _TIMESTAMPS
    if not 0 <= count <= len(LANGUAGES):
        raise ModelUnavailable(f"a vocabulary of {vocabulary} tokens, {end} of them words, is no Whisper's")
    names = (*_BEFORE_LANGUAGES, *list(LANGUAGES)[:count], *_BEHIND_LANGUAGES)
    return {f"<|{name}|>": end + index for index, name in enumerate(names)}


def rules(words: Sequence[bytes], vocabulary: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What stands for the config.json and the tokenizer.json of a CTranslate2 folder. No alignment heads are known."""
    added = added_tokens(words, vocabulary)
    own = {
        "lang_ids": [added[f"<|{code}|>"] for code in LANGUAGES if f"<|{code}|>" in added],
        "suppress_ids": sorted({*_marks(words), *(added[f"<|{name}|>"] for name in _NEVER_SAID)}),
        "suppress_ids_begin": [*_numbers(words, [b" "]), added["<|endoftext|>"]],
    }
    return own, {"added_tokens": [{"content": name, "id": number} for name, number in added.items()]}


def _numbers(words: Sequence[bytes], wanted: Sequence[bytes]) -> list[int]:
    known = {word: number for number, word in enumerate(ordinary(words))}
    return [known[word] for word in wanted if word in known]


def _marks(words: Sequence[bytes]) -> list[int]:
    """Marks that are one token, with and without a space before; of notes the token that they begin with."""
    known = {word: number for number, word in enumerate(ordinary(words))}
    marks = [f"{space}{mark}".encode() for mark in _MARKS for space in ("", " ")]
    notes = [f"{space}{note}".encode() for note in _NOTES for space in ("", " ")]
    begun = [next((note[:n] for n in range(len(note), 0, -1) if note[:n] in known), b"") for note in notes]
    return _numbers(words, [*_LONE, *marks, *begun])


def merges(words: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """The pairs that byte-level BPE joins, in order: every word is made of the two that the earlier ones leave of
    it."""
    ranks = {word: rank for rank, word in enumerate(ordinary(words))}
    return [pair for word in ordinary(words) if len(word) > 1 and (pair := _halves(word, ranks))]


def _halves(word: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes] | None:
    """What is left of a word when all but its own merge are done; None where that is not two."""
    parts, own = [word[at : at + 1] for at in range(len(word))], ranks[word]
    while len(parts) > 2:
        joined = [ranks.get(one + other, own) for one, other in pairwise(parts)]
        best = min(joined)
        if best == own:
            return None
        at = joined.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]
