"""The watermark on speech that is sent while it is made: pieces of about a second, with the symbols' phase carried on.

Energy and loudness are those of what was spoken so far instead of the whole utterance; the frame grid and the position
in the message continue, so the joined pieces carry one watermark. The first piece is shorter, for an early first sound.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from backends.csm.watermark import DEFAULT_SDR, Watermark
from backends.csm.watermark_model.resample import StreamResampler

Samples = NDArray[np.float32]
_FIRST = 0.5  # periods in the first piece
_WHOLE = 10.0  # seconds per piece where nobody waits; bounds the memory of the networks' images


class WatermarkStream:
    """Marks a signal of `rate` Hz that comes in pieces; what comes out has the same total length, up to a second later.

    patient: large pieces, for speech that is sent as a whole.
    """

    def __init__(
        self, watermark: Watermark, rate: int, key: Sequence[int], sdr: float = DEFAULT_SDR, *, patient: bool = False
    ) -> None:
        self._watermark, self._key, self._sdr = watermark, tuple(key), sdr
        self._up, self._down = StreamResampler(rate, watermark.rate), StreamResampler(watermark.rate, rate)
        self._piece = max(1, round(_WHOLE * watermark.rate / watermark.hop)) if patient else watermark.period
        self._next = self._piece if patient else max(1, round(_FIRST * watermark.period))
        self._waiting: list[Samples] = []
        self._held = self._symbol = self._seen = self._taken = self._given = 0
        self._energy = 0.0

    def push(self, samples: Samples, *, last: bool = False) -> Samples:
        """The next samples -> those marked by now; `last` gives all the rest."""
        self._taken += len(samples)
        self._keep(self._up.push(samples, last=last))
        marked = [self._encoded(self._next * self._watermark.hop) for _ in iter(self._full, False)]
        if last and self._held:
            marked.append(self._encoded(self._held))
        out = self._down.push(np.concatenate([np.zeros(0, np.float32), *marked]), last=last)
        out = out[: self._taken - self._given]
        self._given += len(out)
        return out

    def _keep(self, samples: Samples) -> None:
        self._waiting.append(samples)
        self._held += len(samples)

    def _full(self) -> bool:
        return self._held >= self._next * self._watermark.hop

    def _encoded(self, count: int) -> Samples:
        """Mark the first `count` samples that wait."""
        waiting = np.concatenate(self._waiting)
        piece, rest = waiting[:count], waiting[count:]
        self._waiting, self._held = [rest], len(rest)
        self._energy += float(np.sum(np.square(piece, dtype=np.float64)))
        self._seen += count
        marked = self._watermark.encode_native(piece, self._key, self._sdr, self._symbol, self._energy / self._seen)
        self._symbol = (self._symbol + count // self._watermark.hop) % self._watermark.period
        self._next = self._piece
        return marked
