"""Cut a recording into stretches of speech that are decoded independently of each other.

A stretch is at most one window long where pauses allow it, so that stretches can share a batch. Works through the
recording piece by piece and as late as possible: hours of audio need one piece of memory. Knows no model but the speech
detector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backends.audio.mapped import read_samples
from backends.audio.vad import FRAME, FRAME_SECONDS, SpeechDetector
from backends.interface import Chunking
from backends.whisper.audio import SAMPLE_RATE

_PIECE = 625 * FRAME  # samples listened to at once, 20 s
_RELEASE = 0.15  # speech goes on until its probability is this far below the threshold
_LONGEST_PAUSE = 2.0  # seconds of silence inside a stretch; longer ones invite invented text
_SHORTEST = 0.1  # seconds; less is a click, unless the whole recording is that short
_QUIET, _RAISED = 0.02, 0.05  # level of a piece that is raised for the detector, and to what
_LARGEST_GAIN = 100.0  # 40 dB
_CLICKS = 0.01  # share of frames that may be louder than the level


@dataclass(frozen=True, slots=True)
class SpeechSegment:
    """Samples `start` to `end` (exclusive) of the recording."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class VadOptions:
    """threshold: speech probability; padding, pause: seconds kept around speech, and of silence that end it."""

    threshold: float = 0.5
    padding: float = 0.3
    pause: float = 0.4

    @classmethod
    def of(cls, chunking: Chunking | None, threshold: float) -> VadOptions:
        """The request's own wishes over the deployment's threshold."""
        if chunking is None:
            return cls(threshold=threshold)
        return cls(chunking.threshold, chunking.prefix_padding_ms / 1000, chunking.silence_duration_ms / 1000)


def whole(samples: NDArray[np.float32]) -> Iterator[SpeechSegment]:
    """Without a gate the recording is one stretch."""
    if len(samples):
        yield SpeechSegment(0, len(samples))


def find_speech(
    samples: NDArray[np.float32], detector: SpeechDetector, vad_options: VadOptions, window_seconds: float
) -> Iterator[SpeechSegment]:
    """Regions of speech with their padding, packed into stretches no longer than the window where pauses allow it."""
    window = int(window_seconds * SAMPLE_RATE)
    current: SpeechSegment | None = None
    for region in _padded(_regions(samples, detector, vad_options), vad_options, len(samples)):
        if current is None:
            current = region
        elif region.end - current.start <= window and region.start - current.end <= _LONGEST_PAUSE * SAMPLE_RATE:
            current = SpeechSegment(current.start, region.end)
        else:
            yield current
            current = SpeechSegment(max(region.start, current.end), region.end)
    if current is not None:
        yield current


def _regions(
    samples: NDArray[np.float32], detector: SpeechDetector, vad_options: VadOptions
) -> Iterator[SpeechSegment]:
    """Frames above the threshold, joined over short pauses."""
    state, loudness = detector.new_state(), _Loudness()
    begin, last = -1, -1  # first and last speech frame of the open region
    pause = max(1, round(vad_options.pause / FRAME_SECONDS))
    shortest = max(1, int(_SHORTEST / FRAME_SECONDS))
    for first in range(0, len(samples), _PIECE):
        probabilities = state.probabilities(loudness.raised(read_samples(samples, first, first + _PIECE)))
        for frame, probability in enumerate(probabilities.tolist(), first // FRAME):
            if probability >= vad_options.threshold or (begin >= 0 and probability >= vad_options.threshold - _RELEASE):
                begin, last = (frame if begin < 0 else begin), frame
            elif begin >= 0 and frame - last >= pause:
                if last - begin + 1 >= shortest:
                    yield SpeechSegment(begin * FRAME, (last + 1) * FRAME)
                begin = -1
    if begin >= 0 and last - begin + 1 >= shortest:
        yield SpeechSegment(begin * FRAME, min(len(samples), (last + 1) * FRAME))


class _Loudness:
    """How loud the recording is, so that the detector, which misses speech below a peak of about 0.005, hears quiet
    ones too.

    The level is the peak of all frames but the loudest hundredth, and falls by half a piece at most: a click leaves
    quiet speech raised, and the pauses of a recording at an ordinary level are heard as they are.
    """

    def __init__(self) -> None:
        self._level = 0.0

    def raised(self, piece: NDArray[np.float32]) -> NDArray[np.float32]:
        """The next piece as the detector is to hear it: the very same unless it is quiet."""
        peaks = np.maximum.reduceat(np.abs(piece), np.arange(0, len(piece), FRAME))
        self._level = max(float(np.sort(peaks)[-1 - int(_CLICKS * len(peaks))]), self._level / 2)
        if self._level >= _QUIET or self._level == 0.0:
            return piece
        gain = np.float32(min(_LARGEST_GAIN, _RAISED / self._level))
        louder: NDArray[np.float32] = np.clip(piece * gain, -1.0, 1.0)
        return louder


def _padded(regions: Iterator[SpeechSegment], vad_options: VadOptions, length: int) -> Iterator[SpeechSegment]:
    """Give every region its padding; neighbours share what lies between them."""
    padding = int(vad_options.padding * SAMPLE_RATE)
    waiting: SpeechSegment | None = None
    for region in regions:
        start = max(0, region.start - padding)
        if waiting is not None:
            meeting = (waiting.end + region.start) // 2
            yield SpeechSegment(waiting.start, min(waiting.end + padding, max(meeting, waiting.end)))
            start = max(start, meeting)
        waiting = SpeechSegment(start, region.end)
    if waiting is not None:
        yield SpeechSegment(waiting.start, min(length, waiting.end + padding))
