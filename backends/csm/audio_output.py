"""From codes to the samples of an answer: small groups through the codec, silent ends cut, the watermark added.

Streamed and whole answers go the same way and hold the same samples, except for how the watermark is computed.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backends.csm.codec import Codec
from backends.csm.watermark_model.stream import WatermarkStream

Samples = NDArray[np.float32]
_FIRST_GROUP, _GROUP = 2, 4  # frames decoded together: few for an early first sound, then more for less work
_QUIET = 0.003  # amplitude below which speech has ended
_TAIL = 0.24  # seconds of quiet that stay after a sentence


class AudioOutput:
    """The audio of one answer, sentence after sentence."""

    def __init__(self, codec: Codec, watermark: WatermarkStream | None) -> None:
        self._codec, self._watermark = codec, watermark
        self._stream = codec.open_stream()
        self._waiting: list[Tensor] = []
        self._group = _FIRST_GROUP
        self._quiet = np.zeros(0, np.float32)
        self.spoken = 0  # samples so far, with those that the watermark still holds back

    @property
    def quiet_seconds(self) -> float:
        """Seconds of silence at the end of the audio so far."""
        return len(self._quiet) / self._codec.rate

    def take(self, codes: Tensor) -> None:
        """Add the next frame's codes, int64 [codebooks]."""
        self._waiting.append(codes)

    def ready(self, *, last: bool) -> bool:
        """Whether there is a group to decode."""
        return bool(self._waiting) and (last or len(self._waiting) >= self._group)

    def samples(self) -> Samples:
        """Decode the waiting frames; a quiet end is held back until something follows. A call may be repeated."""
        wave = self._stream.decode(torch.stack(self._waiting, 1)[None])[0, 0].cpu().numpy()
        self._waiting, self._group = [], _GROUP
        wave = np.concatenate([self._quiet, np.clip(wave, -1.0, 1.0)])
        loud = np.flatnonzero(np.abs(wave) > _QUIET)
        cut = int(loud[-1]) + 1 if len(loud) else 0
        self._quiet = wave[cut:]
        return self._watermarked(wave[:cut])

    def end_sentence(self) -> Samples:
        """A little of the quiet that is held back; the next sentence starts with a fresh codec."""
        tail = self._quiet[: round(_TAIL * self._codec.rate)]
        self._quiet = np.zeros(0, np.float32)
        self._stream, self._waiting = self._codec.open_stream(), []
        return self._watermarked(tail)

    def end(self, filler: float = 0.0) -> Samples:
        """The samples that the watermark holds back; filler: seconds of silence for an answer that would be empty."""
        silence = np.zeros(0 if self.spoken else round(filler * self._codec.rate), np.float32)
        self.spoken += len(silence)
        return silence if self._watermark is None else self._watermark.push(silence, last=True)

    def _watermarked(self, samples: Samples) -> Samples:
        self.spoken += len(samples)
        return samples if self._watermark is None or not len(samples) else self._watermark.push(samples)
