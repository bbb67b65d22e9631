"""Is a text stuck in a loop? Two measures: how well it compresses, and whether its tail repeats token by token."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

_LONGEST_PATTERN = 24  # tokens
_MIN_REPEATED = 24  # tokens that the repetitions must span together
_SHORT_PATTERN = 4  # tokens; a shorter one in a prompt must come three times to be a repetition, others twice


def compression_ratio(text: str) -> float:
    """Bytes over compressed bytes; ordinary speech stays near 1 to 2, loops are far above."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw)) if raw else 1.0


def looping_tail(tokens: Sequence[int], *, repeats: int = 6) -> int:
    """Length of the pattern that ends the tokens at least `repeats` times in a row; 0 if there is none.

    Short patterns must come more often, so that "no, no, no, no" is left alone.
    """
    for length in range(1, _LONGEST_PATTERN + 1):
        count = max(repeats, -(-_MIN_REPEATED // length))
        if length * count > len(tokens):
            continue
        pattern = list(tokens[-length:])
        if all(
            list(tokens[len(tokens) - length * (i + 1) : len(tokens) - length * i]) == pattern for i in range(1, count)
        ):
            return length
    return 0


def without_loop(tokens: Sequence[int]) -> list[int]:
    """The tokens with a looping tail cut to one occurrence."""
    kept = list(tokens)
    length = looping_tail(kept)
    while length and len(kept) >= 2 * length and kept[-length:] == kept[-2 * length : -length]:
        del kept[-length:]
    return kept


def without_repeats(tokens: Sequence[int]) -> list[int]:
    """A prompt's tokens with whatever comes several times in a row said once. What it names once keeps its place: a
    prompt has no use for the rest, and a loop in it goes on in the answer."""
    kept: list[int] = []
    at = 0
    while at < len(tokens):
        length, count = _run(tokens, at)
        kept += tokens[at : at + length]
        at += length * count
    return kept


def _run(tokens: Sequence[int], at: int) -> tuple[int, int]:
    """Length and number of the equal patterns that begin there; (1, 1) if there is no repetition."""
    for length in range(1, _LONGEST_PATTERN + 1):
        pattern, count = tokens[at : at + length], 1
        while tokens[at + length * count : at + length * (count + 1)] == pattern:
            count += 1
        if count >= (3 if length < _SHORT_PATTERN else 2):
            return length, count
    return 1, 1
