"""One stream of samples from any rate to a wanted one. Knows neither files nor channels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import soxr

from backends.interface import Samples

BLOCK_FRAMES = 65_536


class Resampler:
    """Collects pieces into blocks and resamples them as one stream; a change of the source's rate starts a new
    stream. rate: wanted, Hz; write: gets float32 [frames] in -1..1."""

    def __init__(self, rate: int, write: Callable[[Samples], None]) -> None:
        self._rate, self._write = rate, write
        self._source_rate = 0
        self._stream: soxr.ResampleStream | None = None
        self._pending: list[Samples] = []
        self._frames = 0

    def push(self, mono: Samples, source_rate: int) -> None:
        """Take float32 [frames] at `source_rate` Hz."""
        if source_rate != self._source_rate:
            self.flush()
            self._source_rate = source_rate
            self._stream = None
            if source_rate != self._rate:
                self._stream = soxr.ResampleStream(source_rate, self._rate, 1, dtype="float32", quality="HQ")
        self._pending.append(mono)
        self._frames += len(mono)
        if self._frames >= BLOCK_FRAMES:
            self._emit(last=False)

    def flush(self) -> None:
        """The end of the source: what the filter still holds comes out."""
        if self._source_rate:
            self._emit(last=True)

    def _emit(self, *, last: bool) -> None:
        block = np.concatenate(self._pending) if self._pending else np.zeros(0, np.float32)
        self._pending, self._frames = [], 0
        if self._stream is not None:
            block = self._stream.resample_chunk(np.ascontiguousarray(block), last=last)
        if len(block):
            self._write(np.clip(block, -1.0, 1.0))
