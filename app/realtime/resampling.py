"""One stream of samples from a session's rate to another, piece by piece as it comes.

Owns soxr here, which is imported on first use, as the writers' encoders do. Knows neither formats nor sessions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from backends.interface import Samples


class Stream:
    """float32 [time] at `source` Hz in, at `target` Hz out. The filter holds back some 20 ms until `flush`."""

    def __init__(self, source: int, target: int) -> None:
        self._source, self._target = source, target
        self._stream: Any = None

    def push(self, samples: Samples) -> Samples:
        """What is ready after these samples."""
        if self._source == self._target:
            return samples
        if self._stream is None:
            import soxr

            self._stream = soxr.ResampleStream(self._source, self._target, 1, dtype="float32", quality="HQ")
        return self._chunk(samples, last=False)

    def flush(self) -> Samples:
        """What the filter still holds; what comes next begins a new stream."""
        if self._stream is None:
            return np.zeros(0, np.float32)
        rest = self._chunk(np.zeros(0, np.float32), last=True)
        self._stream = None
        return rest

    def _chunk(self, samples: Samples, *, last: bool) -> Samples:
        chunk: Samples = self._stream.resample_chunk(np.ascontiguousarray(samples, np.float32), last=last)
        return chunk


def resampled(samples: Samples, source: int, target: int) -> Samples:
    """A whole recording at another rate."""
    stream = Stream(source, target)
    return np.concatenate([stream.push(samples), stream.flush()])
