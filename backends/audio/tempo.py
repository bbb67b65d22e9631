"""Changes the tempo of speech at the same pitch, by FFmpeg's atempo filter (WSOLA).

Used where an engine cannot change its own rate, and by the gateway's writers. Knows no voice and no file format.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from backends.interface import Samples

_SLOWEST, _FASTEST = 0.5, 2.0  # of one atempo filter; beyond, it would drop samples or refuse
_TAIL_SECONDS = 0.25  # more than the filters ever hold back
_LEAST_CHANGE = 0.01  # of the speed: less cannot be heard


def change_tempo(samples: Samples, rate: int, speed: float) -> Samples:
    """`samples` (float32 [time] at `rate` Hz) spoken `speed` times as fast; within 1 % of 1 they come back
    unchanged."""
    if abs(speed - 1) < _LEAST_CHANGE or not len(samples):
        return samples
    tempo = TempoFilter(speed, rate)
    return np.concatenate([tempo.push(samples), tempo.finish()])


def tempo_chain(speed: float) -> list[float]:
    """Equal factors whose product is `speed`, each within what one atempo filter does well."""
    limit = _FASTEST if speed > 1.0 else _SLOWEST
    count = max(1, math.ceil(math.log(speed) / math.log(limit) - 1e-9)) if speed != 1.0 else 1
    return [speed ** (1.0 / count)] * count


class TempoFilter:
    """A stream of float32 samples at `rate` Hz, made `speed` times as fast."""

    def __init__(self, speed: float, rate: int) -> None:
        self._graph = av.filter.Graph()
        nodes = [self._graph.add_abuffer(sample_rate=rate, format="flt", layout="mono")]
        nodes += [self._graph.add("atempo", f"{factor:.9f}") for factor in tempo_chain(speed)]
        nodes.append(self._graph.add("abuffersink"))
        for first, second in itertools.pairwise(nodes):
            first.link_to(second)
        self._graph.configure()
        self._speed, self._rate, self._pushed, self._pulled = speed, rate, 0, 0

    def push(self, samples: Samples) -> Samples:
        """What is ready of the output after these samples."""
        if not len(samples):
            return samples
        self._graph.push(audio_frame(np.ascontiguousarray(samples, np.float32)[None], "flt", self._rate, self._pushed))
        self._pushed += len(samples)
        return self._pull()

    def finish(self) -> Samples:
        """The rest, to the exact length. The filters drop the end of their last window: silence is put there, then
        cut."""
        missing = round(self._pushed / self._speed) - self._pulled
        tail = np.concatenate([self.push(np.zeros(round(_TAIL_SECONDS * self._rate), np.float32)), self._drain()])
        return tail[: max(0, missing)]

    def _drain(self) -> Samples:
        self._graph.push(None)
        return self._pull()

    def _pull(self) -> Samples:
        pieces = [np.zeros(0, np.float32)]
        while True:
            try:
                pieces.append(self._graph.pull().to_ndarray()[0])
            except (av.BlockingIOError, av.EOFError):
                break
        samples = np.concatenate(pieces)
        self._pulled += len(samples)
        return samples


def audio_frame(samples: NDArray[Any], format: str, rate: int, position: int) -> av.AudioFrame:  # noqa: A002
    """samples: mono [1, time] of FFmpeg's sample format, at `rate` Hz; position: samples before it."""
    frame = av.AudioFrame.from_ndarray(samples, format=format, layout="mono")
    frame.sample_rate = rate
    frame.pts = position
    return frame
