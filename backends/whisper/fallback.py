"""Temperature fallback: decode at the first temperature, judge, decode what failed again at the next one.

Owns the thresholds. Knows no audio and no segments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from backends.whisper.decoding import WindowResult, WindowTask
from backends.whisper.repetition import compression_ratio, without_loop

DecodeBatch = Callable[[Sequence[WindowTask]], list[WindowResult]]
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """See WhisperOptions."""

    no_speech: float = 0.6
    logprob: float = -1.0
    compression_ratio: float = 2.4

    def is_silence(self, result: WindowResult) -> bool:
        """The model itself sees no speech and does not believe in its text."""
        return result.no_speech_prob > self.no_speech and result.avg_logprob < self.logprob

    def repeats(self, result: WindowResult, text: str) -> bool:
        return result.looped or compression_ratio(text) > self.compression_ratio

    def failed(self, result: WindowResult, text: str) -> bool:
        if self.repeats(result, text):
            return True
        return result.avg_logprob < self.logprob and not self.is_silence(result)


def decode_with_fallback(
    tasks: Sequence[WindowTask],
    temperatures: Sequence[Sequence[float]],
    thresholds: Thresholds,
    decode_batch: DecodeBatch,
    text_of: Decode,
) -> list[WindowResult]:
    """Results of all tasks; temperatures[i]: those of task i, in turn; a single one leaves nothing to try again.

    Where every temperature failed, the best attempt is the answer: the hottest is often the worst.
    """
    attempts: list[list[WindowResult]] = [[] for _ in tasks]
    open_rows = list(range(len(tasks)))
    attempt = 0
    while open_rows:
        batch = [
            replace(tasks[row], temperature=temperatures[row][attempt], seed=tasks[row].seed + attempt)
            for row in open_rows
        ]
        for row, result in zip(open_rows, decode_batch(batch), strict=True):
            attempts[row].append(result)
        attempt += 1
        open_rows = [row for row in open_rows if _failed(attempts[row][-1], thresholds, text_of)]
        open_rows = [row for row in open_rows if attempt < len(temperatures[row])]
    return [_without_loop(_answer(row, thresholds, text_of)) for row in attempts]


def _failed(result: WindowResult, thresholds: Thresholds, text_of: Decode) -> bool:
    return thresholds.failed(result, text_of(result.tokens))


def _answer(attempts: Sequence[WindowResult], thresholds: Thresholds, text_of: Decode) -> WindowResult:
    """The attempt that was good; else the likeliest that does not repeat itself, if there is one."""
    if len(attempts) == 1 or not _failed(attempts[-1], thresholds, text_of):
        return attempts[-1]
    fluent = [one for one in attempts if not thresholds.repeats(one, text_of(one.tokens))]
    best = max(fluent or attempts, key=lambda one: one.avg_logprob)
    best.doubtful = True
    return best


def _without_loop(result: WindowResult) -> WindowResult:
    """What loops even at the hottest temperature is said once."""
    if result.looped:
        result.tokens = without_loop(result.tokens)
        result.logprobs = result.logprobs[: len(result.tokens)]
    return result
