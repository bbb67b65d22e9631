"""Cuts a recording into utterances at its pauses, in memory that does not grow with its length.

Owns the rules of where an utterance begins and ends. Knows the voice detector and no recogniser.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from backends.embedded.voice_activity import FRAME, ListeningState, VoiceDetector
from backends.interface import ASR_SAMPLE_RATE, Samples

_SCAN_FRAMES = 256  # frames looked at per call of the detector, 8 s
_HYSTERESIS = 0.15  # speech ends below threshold - this
_LEAST_SPEECH_FRAMES = 3  # about 100 ms; anything shorter is a click


@dataclass(frozen=True, slots=True)
class Rules:
    """threshold: speech probability that begins an utterance; times in seconds; longest includes the padding."""

    threshold: float = 0.5
    pause: float = 0.5
    padding: float = 0.2
    longest: float = 6.0


@dataclass(frozen=True, slots=True)
class Utterance:
    """Samples begin..end of the recording; speech_probability: mean of the detector's frames between its paddings."""

    begin: int
    end: int
    speech_probability: float


@dataclass(slots=True)
class UtteranceFinder:
    """Walks through one recording. `position`: samples that need no second look."""

    detector: VoiceDetector
    samples: Samples
    rules: Rules
    position: int = 0
    _scanned: int = 0
    _free_from: int = 0
    _state: ListeningState = field(default_factory=ListeningState)
    _probabilities: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))

    def next(self) -> Utterance | None:
        """The next utterance; None when there is none in what was looked at: `finished` says whether that was all.

        One call looks at no more than 8 s beyond the longest utterance, so the caller can stop between calls.
        """
        self._scan()
        first = self._first_speech()
        if first is None:
            return None
        if first > 0:
            self._forget(first)
        last = self._end_of_speech()
        if last is None:
            return None
        return self._take(last)

    @property
    def finished(self) -> bool:
        return self._scanned >= len(self.samples) and not self._probabilities.size

    def _scan(self) -> None:
        """Look ahead far enough to end any utterance that begins at `position`."""
        wanted = self._frames(self.rules.longest + self.rules.pause) + 1
        if self._scanned >= len(self.samples) or len(self._probabilities) >= wanted:
            return
        piece = np.asarray(self.samples[self._scanned : self._scanned + _SCAN_FRAMES * FRAME], np.float32)
        self._scanned += len(piece)
        if len(piece) % FRAME:
            piece = np.concatenate([piece, np.zeros(FRAME - len(piece) % FRAME, np.float32)])
        self._probabilities = np.concatenate([self._probabilities, self.detector.probabilities(piece, self._state)])

    def _first_speech(self) -> int | None:
        """The first frame of speech; what lies before it is forgotten. None if there is none yet."""
        found = np.flatnonzero(self._probabilities >= self.rules.threshold)
        if not found.size:
            self._forget(len(self._probabilities))
            return None
        return int(found[0])

    def _end_of_speech(self) -> int | None:
        """Frames from the start of speech to the pause that ends it, or to the best cut; None: not known yet."""
        quiet = self._probabilities < self.rules.threshold - _HYSTERESIS
        pause = max(1, self._frames(self.rules.pause))
        run = np.convolve(quiet, np.ones(pause, np.int64), "valid") if len(quiet) >= pause else np.zeros(0)
        ends = np.flatnonzero(run == pause)
        limit = max(2, self._frames(self.rules.longest - 2 * self.rules.padding))
        if ends.size and ends[0] <= limit:
            return int(ends[0])
        if len(self._probabilities) > limit:
            half = limit // 2
            return half + int(np.argmin(self._probabilities[half:limit])) + 1
        at_end = self._scanned >= len(self.samples)
        return len(self._probabilities) if at_end else None

    def _take(self, frames: int) -> Utterance | None:
        spoken = self._probabilities[:frames]
        cut_in_speech = bool(np.any(self._probabilities[frames : frames + 1] >= self.rules.threshold - _HYSTERESIS))
        begin = max(self._free_from, self.position - int(self.rules.padding * ASR_SAMPLE_RATE))
        self._forget(frames)
        padding = 0.0 if cut_in_speech else self.rules.padding
        end = min(len(self.samples), self.position + int(padding * ASR_SAMPLE_RATE))
        if np.count_nonzero(spoken >= self.rules.threshold) < _LEAST_SPEECH_FRAMES:
            return None
        self._free_from = end
        return Utterance(begin, end, float(spoken.mean()))

    def _forget(self, frames: int) -> None:
        self._probabilities = self._probabilities[frames:]
        self.position += frames * FRAME

    @staticmethod
    def _frames(duration: float) -> int:
        return int(duration * ASR_SAMPLE_RATE / FRAME)
