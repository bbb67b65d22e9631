"""What the test double hears live: any sound is speech, and every half second of a turn is one word.

Everything follows from the audio alone, as with its transcripts: a turn's text is what `transcript_words` says of its
length. Knows nothing of faults.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from backends.audio.turns import Turn, TurnCutter
from backends.audio.vad import FRAME
from backends.fake.info import FakeOptions
from backends.fake.jobs import WORD_SECONDS, timed_words, transcript_words
from backends.interface import ASR_SAMPLE_RATE, Done, Event, Failed, Samples, Segment, TokenLogprob, Usage
from backends.live import LiveEvent, LiveRequest, TurnDelta, TurnDone, TurnFailed

LOUD = 0.01  # root mean square of a frame from which on it is speech
LOGPROB = -0.1  # of every word
_MOST_TURNS = 8  # that wait to be transcribed


def loud(frames: Samples) -> list[float]:
    """Probability of speech in each frame: 1 or 0."""
    levels = np.sqrt(np.mean(np.square(frames.reshape(-1, FRAME), dtype=np.float64), axis=1))
    return [float(level >= LOUD) for level in levels]


def begin_live(request: LiveRequest, options: FakeOptions) -> FakeLiveJob:
    return FakeLiveJob(TurnCutter(request, loud), options.fail_turn - 1)


@dataclass(slots=True, eq=False)
class FakeLiveJob:
    """fails: number of the turn that cannot be transcribed; told: turn and words of it that were sent."""

    cutter: TurnCutter
    fails: int = -1
    steps: int = 0
    over: bool = False
    reported: dict[int, int] = field(default_factory=dict)

    def has_work(self) -> bool:
        cutter = self.cutter
        return bool(cutter.events or cutter.committed or cutter.over or self._untold(cutter.open))

    def is_full(self) -> bool:
        return len(self.cutter.committed) >= _MOST_TURNS

    def advance(self) -> Iterator[Event | LiveEvent]:
        """What happened, one whole turn, and new words of the open one."""
        self.steps += 1
        yield from self.cutter.take_events()
        if self.cutter.committed:
            turn = self.cutter.committed.popleft()
            yield from self._finish(turn)
            self.reported.pop(turn.number, None)
        yield from self._deltas(self.cutter.open)
        if self.cutter.over and not self.cutter.committed:
            self.over = True
            yield Done(usage=Usage(audio_seconds=self.cutter.position / ASR_SAMPLE_RATE))

    def _untold(self, turn: Turn | None) -> int:
        """Words of the turn that were not sent."""
        return int(turn.seconds / WORD_SECONDS) - self.reported.get(turn.number, 0) if turn is not None else 0

    def _deltas(self, turn: Turn | None) -> Iterator[LiveEvent]:
        if turn is None:
            return
        words = transcript_words(turn.seconds)
        for number in range(self.reported.get(turn.number, 0), len(words)):
            lead = " " if number else ""
            yield TurnDelta(turn.number, lead + words[number], self._logprobs(lead + words[number]))
        self.reported = {turn.number: len(words)}

    def _finish(self, turn: Turn) -> Iterator[LiveEvent]:
        if turn.number == self.fails:
            yield TurnFailed(turn.number, Failed("internal", "the test double was told to fail"))
            return
        yield from self._deltas(turn)
        text = " ".join(transcript_words(turn.seconds))
        words = timed_words(text.split()) if self.cutter.request.words else ()
        segments = (Segment(0, 0.0, turn.seconds, " " + text, words=words),) if text else ()
        yield TurnDone(
            turn.number,
            text,
            turn.seconds,
            self.cutter.request.language or "".join(self.cutter.request.languages[:1]) or "en",
            segments,
            tuple(one for word in text.split() for one in self._logprobs(word)),
        )

    def _logprobs(self, word: str) -> tuple[TokenLogprob, ...]:
        return (TokenLogprob(word, tuple(word.encode()), LOGPROB),) if self.cutter.request.logprobs else ()
