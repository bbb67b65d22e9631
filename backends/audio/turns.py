"""Live audio cut into turns: by the probability of speech in each frame, or where the client says.

Owns what was fed and is still needed: the open turn, and outside of turns the last moments before speech. Knows no
model: whoever transcribes takes the committed turns, and gives the function that hears speech. Positions are samples at
16 kHz of all audio fed since the job began.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from backends.audio.vad import FRAME
from backends.interface import ASR_SAMPLE_RATE, Samples
from backends.live import (
    CommitRefused,
    Feed,
    LiveAudio,
    LiveClear,
    LiveCleared,
    LiveCommit,
    LiveEnd,
    LiveEvent,
    LiveRequest,
    LiveSettings,
    TurnCommitted,
    TurnDetection,
    TurnStarted,
    TurnStopped,
)

SpeechProbabilities = Callable[[Samples], Sequence[float]]
"""Probability of speech in each of the next frames, float32 [frames * 512]; it remembers those before."""

SHORTEST_COMMIT = 0.1  # seconds that the realtime APIs ask of a commit
_SHORTEST_SPEECH = 3  # frames, 96 ms; less is a click
_SPEECH = 0.5  # probability from which on a frame is speech where no request says so
_RELEASE = 0.15  # speech goes on until its probability is this far below the threshold


class SampleBuffer:
    """Samples that come in pieces and go from the front; positions count from the first that ever came."""

    def __init__(self, start: int = 0) -> None:
        self.start = self.end = start
        self._pieces: deque[Samples] = deque()

    def __len__(self) -> int:
        return self.end - self.start

    def append(self, samples: Samples) -> None:
        if len(samples):
            self._pieces.append(samples)
            self.end += len(samples)

    def drop_before(self, position: int) -> None:
        """Forget what lies before a position."""
        while self._pieces and self.start + len(self._pieces[0]) <= position:
            self.start += len(self._pieces.popleft())
        if self._pieces and position > self.start:
            self._pieces[0] = self._pieces[0][position - self.start :].copy()
            self.start = position

    def read(self, first: int, end: int) -> Samples:
        """A copy of the samples between two positions, as far as they are here."""
        whole = self._joined()
        return whole[max(0, first - self.start) : max(0, end - self.start)].copy()

    def _joined(self) -> Samples:
        """All samples as one array, which the buffer keeps as its only piece."""
        if not self._pieces:
            return np.zeros(0, np.float32)
        if len(self._pieces) > 1:
            self._pieces = deque([np.concatenate(self._pieces)])
        return self._pieces[0]


@dataclass(eq=False, slots=True)
class Turn:
    """One turn. start, end: positions; end None: it is open.

    speech_start, speech_end: positions of the first speech in it and of the last, None and 0 where there is none yet;
    speech_frames: how many frames of speech it holds.
    """

    number: int
    start: int
    audio: SampleBuffer
    end: int | None = None
    speech_start: int | None = None
    speech_end: int = 0
    speech_frames: int = 0

    @property
    def seconds(self) -> float:
        return ((self.audio.end if self.end is None else self.end) - self.start) / ASR_SAMPLE_RATE

    def samples(self) -> Samples:
        """float32 [time] of the whole turn, or of what there is of it."""
        return self.audio.read(self.start, self.audio.end if self.end is None else self.end)

    def spoke(self, end: int, frames: int = 1) -> None:
        """Note frames of speech that end at a position."""
        if self.speech_start is None:
            self.speech_start = end - frames * FRAME
        self.speech_end = end
        self.speech_frames += frames


@dataclass(eq=False, slots=True)
class TurnCutter:
    """The turns of one live job. events: what happened, for the next step to tell; committed: turns to transcribe,
    oldest first; open: the turn that grows; over: a LiveEnd came.

    position: up to which audio was cut; what is shorter than a frame waits in `_rest` under turn detection. Without it
    such a rest is part of the turn already and waits in `_unjudged` for the frame to be whole.
    """

    request: LiveRequest
    speech: SpeechProbabilities
    events: list[LiveEvent] = field(default_factory=list)
    committed: deque[Turn] = field(default_factory=deque)
    open: Turn | None = None
    over: bool = False
    position: int = 0
    _rest: Samples = field(default_factory=lambda: np.zeros(0, np.float32))
    _unjudged: Samples = field(default_factory=lambda: np.zeros(0, np.float32))
    _recent: SampleBuffer = field(default_factory=SampleBuffer)
    _turns: int = 0
    _run: int = 0  # frames of speech, or within a turn of silence, up to now

    @property
    def detection(self) -> TurnDetection | None:
        return self.request.turn_detection

    @property
    def held(self) -> int:
        """Samples that are kept."""
        turns = [*self.committed, *([self.open] if self.open else [])]
        return len(self._rest) + len(self._recent) + sum(len(turn.audio) for turn in turns)

    def feed(self, feed: Feed) -> None:
        match feed:
            case LiveAudio(samples):
                self._take(samples)
            case LiveCommit():
                self._commit_asked()
            case LiveClear():
                self._clear()
                self.events.append(LiveCleared())
            case LiveSettings(request):
                self._change(request)
            case LiveEnd():
                self._clear()
                self.over = True

    def take_events(self) -> list[LiveEvent]:
        events, self.events = self.events, []
        return events

    # --- Audio --------------------------------------------------------------------------------------------------------

    def _take(self, samples: Samples) -> None:
        if self.over:
            return
        if self.detection is None:
            self._grow(samples)
            return
        audio = np.concatenate([self._rest, samples]) if len(self._rest) else samples
        whole = len(audio) // FRAME * FRAME
        probabilities = self.speech(audio[:whole]) if whole else ()
        for first, probability in zip(range(0, whole, FRAME), probabilities, strict=True):
            self._take_frame(audio[first : first + FRAME], probability, self.detection)
        self._rest = audio[whole:].copy()

    def _grow(self, samples: Samples) -> None:
        """Without turn detection everything belongs to a turn."""
        while len(samples):
            turn = self.open or self._begin(self.position)
            part = samples[: self._limit(turn) - self.position]
            turn.audio.append(part.copy())
            self.position += len(part)
            self._judge(turn, part)
            samples = samples[len(part) :]
            if self.position >= self._limit(turn):
                self._commit(self.position)

    def _judge(self, turn: Turn, samples: Samples) -> None:
        """Note where somebody spoke in a turn whose end the client tells."""
        audio = np.concatenate([self._unjudged, samples])
        whole = len(audio) // FRAME * FRAME
        ends = range(self.position - len(audio) + FRAME, self.position + 1, FRAME)
        for end, probability in zip(ends, self.speech(audio[:whole]) if whole else (), strict=False):
            if probability >= _SPEECH:
                turn.spoke(end)
        self._unjudged = audio[whole:].copy()

    def _limit(self, turn: Turn) -> int:
        """Position at which a turn has reached its greatest length."""
        return turn.start + max(1, round(self.request.max_turn_seconds * ASR_SAMPLE_RATE))

    def _take_frame(self, frame: Samples, probability: float, detection: TurnDetection) -> None:
        self.position += FRAME
        if self.open is None:
            self._recent.append(frame.copy())
            self._wait_for_speech(probability, detection)
        else:
            self.open.audio.append(frame.copy())
            self._wait_for_silence(self.open, probability, detection)

    def _wait_for_speech(self, probability: float, detection: TurnDetection) -> None:
        threshold = detection.threshold - (_RELEASE if self._run else 0.0)
        self._run = self._run + 1 if probability >= threshold else 0
        padding = _samples(detection.prefix_padding_ms)
        start = max(self.position - self._run * FRAME - padding, self._recent.start)
        if self._run >= _SHORTEST_SPEECH:
            turn = self._begin(start)
            turn.audio.append(self._recent.read(start, self.position))
            turn.spoke(self.position, _SHORTEST_SPEECH)
            self._recent = SampleBuffer(self.position)
            self.events.append(TurnStarted(turn.number, start / ASR_SAMPLE_RATE))
        else:
            self._recent.drop_before(start)

    def _wait_for_silence(self, turn: Turn, probability: float, detection: TurnDetection) -> None:
        self._run = self._run + 1 if probability < detection.threshold - _RELEASE else 0
        if self._run == 0:
            turn.spoke(self.position)
        silence = _samples(detection.silence_duration_ms)
        if self._run and self._run * FRAME >= silence:
            self._stop(turn, max(turn.start + 1, self.position - self._run * FRAME + silence))
        elif self.position >= self._limit(turn):
            self._stop(turn, self._limit(turn), talks=self._run == 0)

    def _stop(self, turn: Turn, end: int, *, talks: bool = False) -> None:
        """End a turn at a position within the last frame. talks: speech goes on, in a turn of its own."""
        left = turn.audio.read(end, self.position)
        self.events.append(TurnStopped(turn.number, end / ASR_SAMPLE_RATE))
        self._commit(end)
        self._recent = SampleBuffer(end)
        self._recent.append(left)
        self._run = _SHORTEST_SPEECH - 1 if talks else 0

    # --- Turns --------------------------------------------------------------------------------------------------------

    def _begin(self, start: int) -> Turn:
        self.open = Turn(self._turns, start, SampleBuffer(start))
        self._turns += 1
        self._run = 0
        return self.open

    def _commit(self, end: int) -> None:
        turn, self.open, self._run = self.open, None, 0
        if turn is None:
            return
        turn.end = end
        self.committed.append(turn)
        self._recent = SampleBuffer(self.position)
        self.events.append(TurnCommitted(turn.number, turn.start / ASR_SAMPLE_RATE, end / ASR_SAMPLE_RATE))

    def _commit_asked(self) -> None:
        """Silence after a detected turn is no turn: what is said there is made up."""
        self._take_rest()
        seconds = self.open.seconds if self.open else 0.0
        if seconds < SHORTEST_COMMIT:
            self.events.append(CommitRefused(seconds))
        else:
            self._commit(self.position)

    def _take_rest(self) -> None:
        """Put what is shorter than a frame where it belongs."""
        rest, self._rest = self._rest, np.zeros(0, np.float32)
        (self.open.audio if self.open else self._recent).append(rest)
        self.position += len(rest)

    def _clear(self) -> None:
        self._take_rest()
        self.open, self._run = None, 0
        self._recent = SampleBuffer(self.position)

    def _change(self, request: LiveRequest) -> None:
        """An open turn keeps its audio; one that turn detection takes over is told as started."""
        self._take_rest()
        took_over = self.detection is None and request.turn_detection is not None
        if (self.detection is None) != (request.turn_detection is None):
            self._run, self._recent, self._unjudged = 0, SampleBuffer(self.position), self._unjudged[:0]
        self.request = request
        if took_over and self.open is not None:
            self.events.append(TurnStarted(self.open.number, self.open.start / ASR_SAMPLE_RATE))


def _samples(milliseconds: int) -> int:
    return milliseconds * ASR_SAMPLE_RATE // 1000
