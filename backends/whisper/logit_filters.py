"""Rules on the next token: one small class each, applied in place to logits before the choice.

A rule sees the logits [rows, vocabulary] and, per row, the tokens chosen so far; it knows nothing of audio or text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from backends.whisper.network import Floats
from backends.whisper.tokenizer import SpecialTokens

_NEVER = -np.inf


class LogitFilter(Protocol):
    def apply(self, logits: Floats, chosen: Sequence[Sequence[int]]) -> None:
        """Set the logits of forbidden tokens to -inf."""


class Suppress:
    """Tokens that never come: symbols that are not spoken, and control tokens."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = np.array(sorted(set(tokens)), np.int64)

    def apply(self, logits: Floats, chosen: Sequence[Sequence[int]]) -> None:
        logits[:, self._tokens[self._tokens < logits.shape[1]]] = _NEVER


class SuppressFirst:
    """Tokens that cannot open the answer: a lone space, the end."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = np.array(sorted(set(tokens)), np.int64)

    def apply(self, logits: Floats, chosen: Sequence[Sequence[int]]) -> None:
        rows = [row for row, tokens in enumerate(chosen) if not tokens]
        if rows:
            logits[np.ix_(rows, self._tokens[self._tokens < logits.shape[1]])] = _NEVER


class Timestamps:
    """Times come in pairs, never go back, and open the answer within its first second (`max_initial`).

    When all times together are likelier than any text token, a time is due.
    """

    def __init__(self, special: SpecialTokens, max_initial: int | None) -> None:
        self._special, self._max_initial = special, max_initial

    def apply(self, logits: Floats, chosen: Sequence[Sequence[int]]) -> None:
        first = self._special.first_timestamp
        if self._special.no_timestamps is not None:
            logits[:, self._special.no_timestamps] = _NEVER
        for row, tokens in zip(logits, chosen, strict=True):
            self._order(row, tokens)
            if not tokens:
                row[:first] = _NEVER
                if self._max_initial is not None:
                    row[first + self._max_initial + 1 :] = _NEVER
            elif _log_sum(row[first:]) > row[:first].max():
                row[:first] = _NEVER

    def _order(self, row: NDArray[np.float32], tokens: Sequence[int]) -> None:
        first, end = self._special.first_timestamp, self._special.end
        last_is_time = bool(tokens) and tokens[-1] >= first
        before_is_time = len(tokens) < 2 or tokens[-2] >= first
        if last_is_time:
            if before_is_time:
                row[first:] = _NEVER  # a pair is complete: text follows
            else:
                row[:end] = _NEVER  # a segment has ended: the next one starts, or all ends
        times = [token for token in tokens if token >= first]
        if times:
            # A segment is longer than nothing: only the second of a pair may repeat the time before.
            row[first : times[-1] + (0 if last_is_time and not before_is_time else 1)] = _NEVER


def _log_sum(row: NDArray[np.float32]) -> float:
    top = float(row.max(initial=_NEVER))
    return top if not np.isfinite(top) else top + float(np.log(np.exp(row - top).sum()))
