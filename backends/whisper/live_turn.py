"""The open turn of a live session as the network sees it: when it is decoded, of which audio, and what that gave.

Owns the audio window of partial decodes, which begins later as the turn grows, and the words that were told. Whether
words are certain is up to the policy; the turn's final text is up to an ordinary transcription.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from backends.audio.turns import Turn
from backends.interface import TokenLogprob
from backends.whisper.active_window import ActiveWindow, DecodingOptions
from backends.whisper.audio import FRAMES_PER_SECOND, SAMPLE_RATE
from backends.whisper.decoding import WindowResult
from backends.whisper.engine import Whisper
from backends.whisper.live_policy import Policy
from backends.whisper.repetition import looping_tail
from backends.whisper.timing import split_words, token_starts
from backends.whisper.transcription import Window, WordTimes, loose_window

_LEAD = int(0.3 * SAMPLE_RATE)  # samples decoded before the first speech
_LEAST_SPEECH = 8  # frames, 256 ms; less is no word that two decodes could agree on
_TRIM_SECONDS = 12.0  # of audio in the window; beyond that what is confirmed leaves it
_KEPT_SECONDS = 4.0  # of confirmed audio that stays, for the sake of what follows
_TOKENS_PER_SECOND = 8  # of fast speech; a decode that gives more goes in circles
_SILENCE_SECONDS = 4.0  # encoded behind the audio of a short window; with less the model goes in circles
_GRID_SECONDS = 2.0  # windows are of few lengths, so that those of several sessions are one batch
_CONTEXT_TOKENS = 100  # of confirmed text before the window that the model is reminded of


@dataclass(slots=True, eq=False)
class OpenTurn:
    """Partial decodes of one turn; implements `Recording`.

    begin: position of the window's first sample; first: index of the confirmed token that the window begins with;
    decoded: position up to which audio was in a decode; sent: text that went out; news: what is to go out.
    """

    zero_filled: ClassVar[bool] = False

    turn: Turn
    policy: Policy
    whisper: Whisper
    language: str | None
    languages: tuple[str, ...] = ()
    logprobs: bool = False
    begin: int = -1
    first: int = 0
    decoded: int = 0
    sent: str = ""
    news: list[tuple[str, tuple[TokenLogprob, ...]]] = field(default_factory=list)

    # --- What to decode -----------------------------------------------------------------------------------------------

    def is_due(self, chunk_seconds: float) -> bool:
        """Whether there is enough new speech for another decode."""
        turn = self.turn
        if turn.speech_start is None or turn.speech_frames < _LEAST_SPEECH or turn.speech_end <= self.decoded:
            return False
        since = max(self.decoded, turn.speech_start)
        return turn.audio.end - since >= chunk_seconds * SAMPLE_RATE

    def item(self, prompt: str, keywords: tuple[str, ...] = ()) -> ActiveWindow:
        """The next decode: all audio of the window, with the words that are certain as the beginning of the answer."""
        turn = self.turn
        if self.begin < 0:
            self.begin = max(turn.start, (turn.speech_start or 0) - _LEAD)
        if turn.audio.end - self.begin > self.whisper.dims.window_samples:  # nothing was certain enough to leave it
            self.begin, self.first = turn.audio.end - self.whisper.dims.window_samples, len(self.policy.confirmed)
        self.decoded = turn.audio.end
        length = self.decoded - self.begin
        before = self.policy.confirmed[: self.first][-_CONTEXT_TOKENS:]
        forced = tuple(self.policy.confirmed[self.first :])
        options = DecodingOptions(
            language=self.language,
            languages=self.languages,
            prompt=prompt,
            keywords=keywords,
            max_tokens=8 + int(_TOKENS_PER_SECOND * length / SAMPLE_RATE),
            timestamps=False,
            forced=forced,
        )
        return ActiveWindow(self, loose_window(length, before), options, frames=self._frames(length))

    def _frames(self, length: int) -> int:
        """How much is encoded of a window that holds so many samples: a short one costs less, and hears as well."""
        if not self.whisper.network.short_windows:
            return 0
        seconds = _GRID_SECONDS * ceil((length / SAMPLE_RATE + _SILENCE_SECONDS) / _GRID_SECONDS)
        frames = round(seconds * FRAMES_PER_SECOND)
        return frames if frames < self.whisper.dims.mel_frames else 0

    def audio(self, window: Window) -> NDArray[np.float32]:
        return self.turn.audio.read(self.begin, self.begin + window.length)

    # --- What came of it ----------------------------------------------------------------------------------------------

    def skip(self, window: Window) -> None:
        """The decode gave nothing."""

    def accept(self, window: Window, result: WindowResult, words: WordTimes = ()) -> None:
        """Confirm what is certain. A decode that the final one would not believe confirms nothing."""
        if result.avg_logprob < self.whisper.thresholds.logprob or looping_tail(result.tokens):
            return
        count = self.policy.take(result.tokens, self.language)
        tokens = result.tokens[:count]
        new = self.whisper.tokenizer.decode(tokens)
        new = new if self.sent else new.lstrip()
        if new:
            self.sent += new
            self.news.append((new, self._logprobs(result, count)))

    def take_news(self) -> list[tuple[str, tuple[TokenLogprob, ...]]]:
        """Text that became certain since this was asked last, with its tokens' probabilities."""
        news, self.news = self.news, []
        return news

    def _logprobs(self, result: WindowResult, count: int) -> tuple[TokenLogprob, ...]:
        if not self.logprobs:
            return ()
        raw = [self.whisper.tokenizer.token_bytes(token) for token in result.tokens[:count]]
        values = zip(raw, result.logprobs[:count], strict=True)
        return tuple(TokenLogprob(one.decode("utf-8", errors="replace"), tuple(one), value) for one, value in values)

    def trim(self, item: ActiveWindow) -> None:
        """Let the window begin later once it is long: at a confirmed word, by the attention to the audio."""
        seconds = item.window.length / SAMPLE_RATE
        tokens = self.policy.confirmed[self.first :]
        if seconds <= _TRIM_SECONDS or not tokens:
            return
        rows = self.whisper.alignment(item, tokens)
        texts = [self.whisper.tokenizer.decode([token]) for token in tokens[: len(rows)]]
        starts = token_starts(rows, texts, 0.0, seconds)
        index = 0
        for word in split_words(tokens[: len(rows)], self.whisper.tokenizer, self.language):
            if starts[index + len(word.tokens)] > seconds - _KEPT_SECONDS:
                break
            index += len(word.tokens)
        self.first += index
        self.begin += int(starts[index] * SAMPLE_RATE)
