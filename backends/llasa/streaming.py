"""Codes to audio, at once or while they arrive.

The decoder is neither causal nor local, so a part decoded on its own is an approximation: each window has some codes
before it and a look-ahead after it, and neighbouring windows are cross-faded. An answer that is not streamed is decoded
whole, together with the reference clip it continues, whose samples are then cut off: exactly the published way. Codes
come and stay on the codec's device; only audio leaves it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backends.llasa.async_copy import upload
from backends.llasa.codec import Codec
from backends.llasa.voices import Reference

Samples = NDArray[np.float32]

FIRST_FRAMES = 24  # with the look-ahead, first audio comes after 36 codes (0.72 s of speech)
NEXT_FRAMES = 50
LOOK_AHEAD = 12  # frames: the convolutions reach 11, the overlapping windows 2
CONTEXT = 60  # frames before a window


def decode_whole(codec: Codec, codes: Tensor, reference: Reference | None) -> Samples:
    """The waveform of an answer, float32 [time]; the codes of the reference are decoded along and their samples cut."""
    if not len(codes):
        return np.zeros(0, np.float32)
    wave = _decode(codec, torch.cat([_upload(codec, reference), codes]))
    return wave[reference.samples :] if reference else wave


class StreamDecoder:
    """The waveform of one answer while its codes arrive. What was sent is never changed."""

    def __init__(self, codec: Codec, reference: Reference | None) -> None:
        self._codec, self._reference = codec, reference
        self._before = _upload(codec, reference)
        self._start = len(self._before)
        # The last reference code covers up to a frame of padding: those samples of the answer come first.
        self._cut = reference.samples if reference else 0
        self._sent = min(self._cut // codec.dims.hop, self._start)
        self._tail = np.zeros(0, np.float32)
        self.started = False

    def has_next(self, count: int) -> bool:
        """Whether `count` codes of the answer are enough for a next window."""
        return self._next_end(self._start + count, last=False) is not None

    def next(self, codes: Tensor, *, last: bool) -> Samples | None:
        """The next samples to send, given all codes known so far; None if there are none yet. last: these are all."""
        total = self._start + len(codes)
        if last and not self.started:
            self.started, self._sent = True, total
            return decode_whole(self._codec, codes, self._reference)
        end = self._next_end(total, last)
        return None if end is None else self._window(torch.cat([self._before, codes]), end)

    def _next_end(self, total: int, last: bool) -> int | None:
        """End of the next window, in frames, or None if there are not enough codes for one."""
        frames = NEXT_FRAMES if self.started else FIRST_FRAMES
        begin = max(self._sent, self._start)
        if total - begin >= frames + LOOK_AHEAD:
            return begin + frames
        return total if last and total > self._sent else None

    def _window(self, codes: Tensor, end: int) -> Samples:
        hop, begin = self._codec.dims.hop, max(0, self._sent - CONTEXT)
        wave = _decode(self._codec, codes[begin : end + LOOK_AHEAD])
        first, final = (self._sent - begin) * hop, (end - begin) * hop
        fresh = wave[first:final].copy()
        _fade(self._tail, fresh)
        self._tail = wave[final : final + hop]
        if not self.started:
            fresh = fresh[self._cut - self._sent * hop :]
        self._sent, self.started = end, True
        return fresh


def _fade(old: Samples, fresh: Samples) -> None:
    """Blend the end of the last window's look-ahead into the beginning of the new window, in place: 20 ms."""
    count = min(len(old), len(fresh))
    if count:
        rising = np.linspace(0, 1, count, dtype=np.float32)
        fresh[:count] = old[:count] * (1 - rising) + fresh[:count] * rising


def _upload(codec: Codec, reference: Reference | None) -> Tensor:
    return upload(reference.codes if reference else (), codec.device)


def _decode(codec: Codec, codes: Tensor) -> Samples:
    """The waveform of int64 [time]: the one transfer of an audio chunk."""
    wave: Samples = codec.wave(codes[None])[0].cpu().numpy()
    return wave
