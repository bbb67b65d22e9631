"""Speech that a window's answer left out: the decoder at times ends after a sentence, though people speak on.

The end that it gives such a sentence is true, or that of the whole window. The speech detector tells that something may
be missing, which costs nothing; only then cross-attention tells what the last word was heard at. Knows no network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from backends.whisper.audio import SECONDS_PER_TIMESTAMP
from backends.whisper.decoding import WindowResult
from backends.whisper.network import Floats
from backends.whisper.segments import WindowOutput, read_window
from backends.whisper.timing import PUNCTUATION

_LEAST = 2.0  # seconds of speech, with its padding; less is a breath, or the detector's
# Fluent English has about 0.3 s of speech per token, slow dictation 0.6. What is only slow costs one look at attention.
_SECONDS_PER_TOKEN = 0.6
_PROGRESS = 1.0  # seconds that a window is shortened to at least, so that a window is not cut to shreds

Spans = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The end of one window's answer against its speech. speech: (start, end) in the window; seconds: of the window;
    decode: text of tokens."""

    result: WindowResult
    speech: Spans
    first_timestamp: int
    seconds: float
    decode: Callable[[Sequence[int]], str]

    @property
    def suspected(self) -> bool:
        """Speech follows the last segment, or the segment has far too few words for the speech in it."""
        if not self.speech or self.result.looped or self.result.doubtful:
            return False
        output = self._output
        if not output.pieces:
            return False
        last = output.pieces[-1]
        words = len(self._words(last.tokens))
        after = seconds_of(self.speech, last.end, output.advance)
        within = seconds_of(self.speech, last.start, output.advance)
        return words > 0 and (after >= _LEAST or within >= _LEAST + words * _SECONDS_PER_TOKEN)

    @property
    def text(self) -> list[int]:
        """Tokens of the answer's segments without their times."""
        return [token for piece in self._output.pieces for token in self._words(piece.tokens)]

    @property
    def _output(self) -> WindowOutput:
        return read_window(self.result, self.first_timestamp, self.seconds)

    def _words(self, tokens: Sequence[int]) -> list[int]:
        return [token for token in tokens if token < self.first_timestamp]

    def cut(self, alignment: Floats) -> WindowResult:
        """The answer with the end of its last segment, and thereby the next window, at the end of the last word that
        was heard; the same answer where no speech of note follows. alignment: [len(text), positions]."""
        output = self._output
        last_word_at = last_word_time(alignment, [self.decode([token]) for token in self.text])
        last = output.pieces[-1]
        ends = [start for start, _ in self.speech if start > last_word_at]
        ends += [last.end] if last.end > last_word_at else []
        resume = min(ends, default=self.seconds)
        if resume <= max(last.start, _PROGRESS) or seconds_of(self.speech, resume, output.advance) < _LEAST:
            return self.result
        time = self.first_timestamp + round(resume / SECONDS_PER_TIMESTAMP)
        length = max(at for at, token in enumerate(last.tokens) if token < self.first_timestamp) + 1
        kept = last.first + length
        return replace(
            self.result,
            tokens=[*self.result.tokens[:kept], time, time],
            logprobs=[*self.result.logprobs[:kept], *[self.result.avg_logprob] * 2],
            rest=output.advance,
        )


def seconds_of(speech: Spans, start: float, end: float) -> float:
    """How much of the speech lies between two times."""
    return sum(max(0.0, min(b, end) - max(a, start)) for a, b in speech)


def last_word_time(alignment: Floats, texts: Sequence[str]) -> float:
    """Seconds at which the last word was heard. alignment: [tokens, positions] of 20 ms; texts: one per token. Mere
    punctuation does not count: it attends to the pause behind it, or to anything.

    The path of `timing` fills all the time that it is given. Here each token is heard where most of its attention is;
    the longest run of tokens in the order of time leaves out those that looked elsewhere. Of several such runs the
    latest counts: what is decoded twice is worse than what is left out.
    """
    positions = [
        int(row.argmax()) for row, text in zip(alignment, texts, strict=False) if text.strip(f" {PUNCTUATION}")
    ]
    if not positions:
        return float(alignment.shape[1]) * SECONDS_PER_TIMESTAMP
    lengths = np.zeros(len(positions), np.int64)
    for at, position in enumerate(positions):
        lengths[at] = 1 + max((lengths[before] for before in range(at) if positions[before] <= position), default=0)
    ends = [position for position, length in zip(positions, lengths, strict=True) if length == lengths.max()]
    return max(ends) * SECONDS_PER_TIMESTAMP
