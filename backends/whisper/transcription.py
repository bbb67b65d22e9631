"""One recording on its way to text: which windows come next, and what their tokens mean for the whole.

Owns seek positions, carried prompts and the order of segments. Decodes nothing itself; samples may be a memory map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from backends.audio.mapped import read_samples
from backends.interface import Segment, TokenLogprob, Word
from backends.whisper.audio import FRAMES_PER_SECOND, SAMPLE_RATE
from backends.whisper.decoding import WindowResult
from backends.whisper.left_out import LeftOut
from backends.whisper.repetition import compression_ratio
from backends.whisper.segments import Chunk, read_window
from backends.whisper.speech_segments import SpeechSegment
from backends.whisper.tokenizer import SpecialTokens, WhisperTokenizer

_SAFE_TEMPERATURE = 0.5  # hotter text is no prompt for what follows
_SHORTEST_WINDOW = int(0.02 * SAMPLE_RATE)  # samples; what is left of a segment below this holds nothing


@dataclass(slots=True)
class _Progress:
    """A speech segment in work. seek: sample of its next window; context: tokens said so far, empty where unsafe; rest:
    sample to go on from where the next window, which hears again what the one before left out, gives no good answer."""

    speech_segment: SpeechSegment
    seek: int
    context: list[int] = field(default_factory=list)
    ready: list[Segment] = field(default_factory=list)
    waiting: bool = False
    rest: int = 0

    @property
    def over(self) -> bool:
        return not self.waiting and self.speech_segment.end - self.seek < _SHORTEST_WINDOW


@dataclass(frozen=True, slots=True)
class Window:
    """A window to decode. start, length: samples of the recording; context: prompt tokens from the window before."""

    progress: _Progress
    start: int
    length: int
    context: tuple[int, ...]

    @property
    def seconds(self) -> float:
        return self.length / SAMPLE_RATE


def loose_window(length: int, context: Sequence[int]) -> Window:
    """A window of audio that is no part of a recording's progress."""
    return Window(_Progress(SpeechSegment(0, length), 0), 0, length, tuple(context))


WordTimes = Sequence[Sequence[Word]]


class Transcription:
    """State of one recording."""

    def __init__(
        self,
        samples: NDArray[np.float32],
        speech_segments: Iterator[SpeechSegment],
        window_samples: int,
        tokenizer: WhisperTokenizer,
        special: SpecialTokens,
        *,
        carry_prompt: bool = True,
        logprobs: bool = False,
        zero_filled: bool = False,
    ) -> None:
        self.samples = samples
        self.zero_filled = zero_filled
        self._speech_segments = speech_segments
        self._window_samples = window_samples
        self._tokenizer, self._special = tokenizer, special
        self._carry_prompt, self._logprobs = carry_prompt, logprobs
        self._open: list[_Progress] = []
        self._exhausted = False
        self._segments = 0

    # --- Windows ---------------------------------------------------------------------------------------------------

    def next_windows(self, limit: int) -> list[Window]:
        """Up to `limit` windows that do not depend on each other: one per speech segment, in the order of time."""
        while not self._exhausted and len(self._idle()) < limit:
            speech_segment = next(self._speech_segments, None)
            if speech_segment is None:
                self._exhausted = True
            else:
                self._open.append(_Progress(speech_segment, speech_segment.start))
        return [self._window(progress) for progress in self._idle()[:limit]]

    def _idle(self) -> list[_Progress]:
        return [progress for progress in self._open if not progress.waiting and not progress.over]

    def _window(self, progress: _Progress) -> Window:
        progress.waiting = True
        length = min(self._window_samples, progress.speech_segment.end - progress.seek)
        return Window(progress, progress.seek, length, tuple(progress.context))

    def audio(self, window: Window) -> NDArray[np.float32]:
        """The window's samples, read now, its quiet passages raised."""
        samples = read_samples(self.samples, window.start, window.start + window.length)
        for start, end, gain in window.progress.speech_segment.raised:
            passage = samples[max(0, start - window.start) : max(0, end - window.start)]
            np.clip(passage * np.float32(gain), -1.0, 1.0, out=passage)
        return samples

    # --- Results ---------------------------------------------------------------------------------------------------

    def pieces(self, window: Window, result: WindowResult) -> tuple[Chunk, ...]:
        return read_window(result, self._special.first_timestamp, window.seconds).pieces

    def release(self, window: Window) -> None:
        """The window could not be decoded now: it comes again."""
        window.progress.waiting = False

    def skip(self, window: Window) -> None:
        """Nothing was said in this window."""
        progress = window.progress
        progress.seek = progress.rest or window.start + window.length
        progress.context = []
        progress.rest = 0
        progress.waiting = False

    def accept(self, window: Window, result: WindowResult, words: WordTimes = ()) -> None:
        """Take a decoded window. words: one list per piece, times in the recording, or nothing."""
        progress = window.progress
        if progress.rest and result.doubtful:
            self.skip(window)
            return
        reading = read_window(result, self._special.first_timestamp, window.seconds)
        for index, piece in enumerate(reading.pieces):
            segment = self._segment(window, result, piece, tuple(words[index]) if words else ())
            if segment.text.strip():
                progress.ready.append(segment)
        unsafe = result.looped or result.doubtful or result.rest > 0
        safe = self._carry_prompt and result.temperature < _SAFE_TEMPERATURE and not unsafe
        said = [token for piece in reading.pieces for token in piece.tokens]
        progress.context = [*progress.context, *said] if safe else []
        progress.seek = window.start + max(_SHORTEST_WINDOW, min(window.length, round(reading.advance * SAMPLE_RATE)))
        progress.rest = window.start + round(result.rest * SAMPLE_RATE) if result.rest else 0
        progress.waiting = False

    def left_out(self, window: Window, result: WindowResult) -> LeftOut | None:
        """The speech at the window's end that its answer seems to leave out, if any."""
        end = window.start + window.length
        parts = [(max(a, window.start), min(b, end)) for a, b in window.progress.speech_segment.speech]
        speech = [((a - window.start) / SAMPLE_RATE, (b - window.start) / SAMPLE_RATE) for a, b in parts if a < b]
        rest = LeftOut(result, speech, self._special.first_timestamp, window.seconds, self._tokenizer.decode)
        return rest if rest.suspected else None

    def _segment(self, window: Window, result: WindowResult, piece: Chunk, words: tuple[Word, ...]) -> Segment:
        text = self._tokenizer.decode(self.text_tokens(piece))
        offset = window.start / SAMPLE_RATE
        return Segment(
            id=0,  # given when it leaves in order
            start=round(offset + piece.start, 3),
            end=round(offset + piece.end, 3),
            text=text,
            seek=window.start * FRAMES_PER_SECOND // SAMPLE_RATE,
            tokens=piece.tokens,
            temperature=result.temperature,
            avg_logprob=result.avg_logprob,
            compression_ratio=compression_ratio(self._window_text(result)),
            no_speech_prob=result.no_speech_prob,
            words=words,
            logprobs=self._token_logprobs(piece, result) if self._logprobs else (),
        )

    def _window_text(self, result: WindowResult) -> str:
        """What the fallback's measures are taken of: the window is decoded, and repeated, as a whole."""
        first = self._special.first_timestamp
        return self._tokenizer.decode(token for token in result.tokens if token < first).strip()

    def text_tokens(self, piece: Chunk) -> list[int]:
        first = self._special.first_timestamp
        return [token for token in piece.tokens if token < first and self._tokenizer.is_text(token)]

    def text_logprobs(self, piece: Chunk, result: WindowResult) -> list[float]:
        """Log-probabilities of `text_tokens`."""
        first = self._special.first_timestamp
        values = zip(piece.tokens, result.logprobs[piece.first :], strict=False)
        return [logprob for token, logprob in values if token < first and self._tokenizer.is_text(token)]

    def _token_logprobs(self, piece: Chunk, result: WindowResult) -> tuple[TokenLogprob, ...]:
        values = zip(self.text_tokens(piece), self.text_logprobs(piece, result), strict=True)
        return tuple(self._token_logprob(token, logprob) for token, logprob in values)

    def _token_logprob(self, token: int, logprob: float) -> TokenLogprob:
        raw = self._tokenizer.token_bytes(token)
        return TokenLogprob(raw.decode("utf-8", errors="replace"), tuple(raw), logprob)

    def finished_segments(self) -> Iterator[Segment]:
        """Segments whose predecessors are all known, in the order of time, each once."""
        while self._open:
            first = self._open[0]
            for segment in first.ready:
                yield _numbered(segment, self._segments)
                self._segments += 1
            first.ready = []
            if not first.over:
                return
            self._open.pop(0)

    @property
    def over(self) -> bool:
        return self._exhausted and not self._open

    def close(self) -> None:
        """Let go of the samples: a mapped file takes space, and on Windows cannot be deleted, until nobody refers to
        it."""
        self.samples = np.zeros(0, np.float32)
        self._speech_segments = iter(())
        self._open, self._exhausted = [], True


def _numbered(segment: Segment, number: int) -> Segment:
    return replace(segment, id=number)
