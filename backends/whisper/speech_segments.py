"""Cut a recording into segments of speech that are decoded independently of each other.

A segment is at most one window long where pauses allow it, so that segments can share a batch. Works through the
recording piece by piece and as late as possible: hours of audio need one piece of memory. Knows no model but the speech
detector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from backends.audio.mapped import read_samples
from backends.audio.vad import FRAME, FRAME_SECONDS, SpeechDetector
from backends.interface import Chunking
from backends.whisper.audio import SAMPLE_RATE
from backends.whisper.loudness import AHEAD, QuickGain, SlowGain, frame_absmax, gain_beside, level, raised

_PIECE = 625 * FRAME  # samples listened to at once, 20 s
_RELEASE = 0.15  # speech goes on until its probability is this far below the threshold
_LONGEST_PAUSE = 2.0  # seconds of silence inside a segment; longer ones invite invented text
_SHORTEST = 0.1  # seconds; less is a click, unless the whole recording is that short
_MORE = 2.0  # times the gain of the first hearing that the second must raise a passage by


@dataclass(frozen=True, slots=True)
class SpeechSegment:
    """Samples `start` to `end` (exclusive) of the recording. level: see `loudness`; raised: (start, end, gain) of quiet
    passages, which the recogniser is to hear so much louder; speech: (start, end) of where somebody speaks, with
    padding, or nothing where nobody listened for speech."""

    start: int
    end: int
    level: float = 0.0
    raised: tuple[tuple[int, int, float], ...] = ()
    speech: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class VadOptions:
    """threshold: speech probability; padding, pause: seconds kept around speech, and of silence that end it."""

    threshold: float = 0.5
    padding: float = 0.3
    pause: float = 0.4

    @classmethod
    def of(cls, chunking: Chunking | None, threshold: float) -> VadOptions:
        """What the request asks for over the deployment's threshold."""
        if chunking is None:
            return cls(threshold=threshold)
        return cls(chunking.threshold, chunking.prefix_padding_ms / 1000, chunking.silence_duration_ms / 1000)


def whole(samples: NDArray[np.float32]) -> Iterator[SpeechSegment]:
    """Without a gate the recording is one segment."""
    if len(samples):
        yield SpeechSegment(0, len(samples))


def find_speech(
    samples: NDArray[np.float32], detector: SpeechDetector, vad_options: VadOptions, window_seconds: float
) -> Iterator[SpeechSegment]:
    """Regions of speech with their padding, packed into segments no longer than the window where pauses allow it."""
    window = int(window_seconds * SAMPLE_RATE)
    together: list[SpeechSegment] = []
    for region in _padded(_regions(samples, detector, vad_options), vad_options, len(samples)):
        if together and not _fits(together, region, window):
            yield _joined(together)
            region = replace(region, start=max(region.start, together[-1].end))
            together = []
        together.append(region)
    if together:
        yield _joined(together)


def _fits(together: Sequence[SpeechSegment], region: SpeechSegment, window: int) -> bool:
    pause = region.start - together[-1].end
    return region.end - together[0].start <= window and pause <= _LONGEST_PAUSE * SAMPLE_RATE


def _joined(regions: Sequence[SpeechSegment]) -> SpeechSegment:
    """One segment of several regions, the quiet ones of them raised."""
    loudest = max(region.level for region in regions)
    gains = ((region, gain_beside(region.level, loudest)) for region in regions)
    raised = tuple((region.start, region.end, gain) for region, gain in gains if gain > 1.0)
    speech = tuple((region.start, region.end) for region in regions)
    return SpeechSegment(regions[0].start, regions[-1].end, loudest, raised, speech)


def _regions(
    samples: NDArray[np.float32], detector: SpeechDetector, vad_options: VadOptions
) -> Iterator[SpeechSegment]:
    """Frames above the threshold, joined over short pauses."""
    hearing = _Hearing(detector)
    begin, last = -1, -1  # first and last speech frame of the open region
    absmax: list[float] = []  # of its frames, and of a pause that may end it
    pause = max(1, round(vad_options.pause / FRAME_SECONDS))
    shortest = max(1, int(_SHORTEST / FRAME_SECONDS))

    def region() -> SpeechSegment:
        of_speech = np.array(absmax[: last - begin + 1], np.float32)
        return SpeechSegment(begin * FRAME, min(len(samples), (last + 1) * FRAME), level(of_speech))

    for first in range(0, len(samples), _PIECE):
        probabilities = hearing.of(read_samples(samples, first, first + _PIECE + AHEAD))
        for frame, (probability, peak) in enumerate(probabilities, first // FRAME):
            if probability >= vad_options.threshold or (begin >= 0 and probability >= vad_options.threshold - _RELEASE):
                begin, last = (frame if begin < 0 else begin), frame
            elif begin >= 0 and frame - last >= pause:
                if last - begin + 1 >= shortest:
                    yield region()
                begin, absmax = -1, []
            if begin >= 0:
                absmax.append(peak)
    if begin >= 0 and last - begin + 1 >= shortest:
        yield region()


class _Hearing:
    """The detector's two hearings of a recording: as it is (raised as a whole where it is quiet), and with every quiet
    passage of some seconds raised for itself, so that a quiet speaker after a loud one is heard."""

    def __init__(self, detector: SpeechDetector) -> None:
        self._detector = detector
        self._first, self._second = detector.new_state(), detector.new_state()
        self._slow, self._quick = SlowGain(), QuickGain()

    def of(self, piece: NDArray[np.float32]) -> list[tuple[float, float]]:
        """Probability of speech and peak of each frame. piece: `_PIECE` samples and `AHEAD` more, fewer at the end."""
        absmax = frame_absmax(piece)
        own, here = piece[:_PIECE], absmax[: _PIECE // FRAME]
        gain, gains = self._slow.of(here), self._quick.of(here, absmax[len(here) :])
        probabilities = self._first.probabilities(raised(own, gain))
        quiet = gains > _MORE * gain
        if quiet.any():
            again = self._second.probabilities(raised(own, np.where(quiet, gains, gain)))
            probabilities = np.where(quiet, np.maximum(probabilities, again), probabilities)
        else:
            self._second = self._detector.new_state()
        return list(zip(probabilities.tolist(), here.tolist(), strict=True))


def _padded(regions: Iterator[SpeechSegment], vad_options: VadOptions, length: int) -> Iterator[SpeechSegment]:
    """Give every region its padding; neighbours share what lies between them."""
    padding = int(vad_options.padding * SAMPLE_RATE)
    waiting: SpeechSegment | None = None
    for region in regions:
        start = max(0, region.start - padding)
        if waiting is not None:
            meeting = (waiting.end + region.start) // 2
            yield replace(waiting, end=min(waiting.end + padding, max(meeting, waiting.end)))
            start = max(start, meeting)
        waiting = replace(region, start=start)
    if waiting is not None:
        yield replace(waiting, end=min(length, waiting.end + padding))
