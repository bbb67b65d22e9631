"""From a window's tokens to segments, and how far the next window moves on.

Owns the reading of Whisper's timestamp tokens. Knows no model; times are seconds within the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from backends.whisper.audio import SECONDS_PER_TIMESTAMP
from backends.whisper.decoding import WindowResult


@dataclass(frozen=True, slots=True)
class Chunk:
    """One segment of a window. tokens: with its timestamps; first: index of tokens[0] in the window's result."""

    start: float
    end: float
    tokens: tuple[int, ...]
    first: int


@dataclass(frozen=True, slots=True)
class WindowOutput:
    """advance: seconds until the next window begins."""

    pieces: tuple[Chunk, ...]
    advance: float


def read_window(result: WindowResult, first_timestamp: int, seconds: float) -> WindowOutput:
    """Pieces of a window that holds `seconds` of audio.

    Two neighbouring times end one segment and begin the next. A last segment without an end was cut by the window: the
    next window begins where the last whole one ended. A single time at the end means that nothing was cut. A piece that
    lasts no time, which is what begins behind the audio, was invented: only the first one is heard all the same.
    """
    tokens = result.tokens
    is_time = [token >= first_timestamp for token in tokens]
    cuts = [index for index in range(1, len(tokens)) if is_time[index] and is_time[index - 1]]
    if not cuts:
        return WindowOutput(tuple(_single(tokens, is_time, first_timestamp, seconds)), seconds)
    complete = is_time[-2:] == [False, True]
    edges = [0, *cuts, *([len(tokens)] if complete else [])]
    pieces = [_piece(tokens, begin, end, first_timestamp, seconds) for begin, end in pairwise(edges)]
    advance = seconds if complete else _time(tokens[cuts[-1] - 1], first_timestamp, seconds)
    return WindowOutput(
        tuple(piece for piece in pieces if piece.end > piece.start), advance if advance > 0 else seconds
    )


def _single(tokens: Sequence[int], is_time: Sequence[bool], first_timestamp: int, seconds: float) -> list[Chunk]:
    """A window without a pair of times is one segment."""
    if not tokens:
        return []
    times = [_time(token, first_timestamp, seconds) for token, timed in zip(tokens, is_time, strict=True) if timed]
    start = times[0] if is_time[0] and times[0] < seconds else 0.0
    end = times[-1] if times and times[-1] > start else seconds
    return [Chunk(start, end, tuple(tokens), 0)]


def _piece(tokens: Sequence[int], begin: int, end: int, first_timestamp: int, seconds: float) -> Chunk:
    part = tuple(tokens[begin:end])
    start = _time(part[0], first_timestamp, seconds)
    start = 0.0 if begin == 0 and start >= seconds else start
    return Chunk(start, max(start, _time(part[-1], first_timestamp, seconds)), part, begin)


def _time(token: int, first_timestamp: int, seconds: float) -> float:
    """Seconds of a timestamp token, never past the audio; a text token (a broken answer) is the beginning."""
    return min(seconds, max(0, token - first_timestamp) * SECONDS_PER_TIMESTAMP)
