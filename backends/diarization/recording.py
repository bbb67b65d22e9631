"""One recording on its way through the networks, some windows at a time.

Owns what is kept of the windows: who is active in them, and what each voice is like. Audio and features are let go as
soon as they are used, so that hours of audio need little memory. Knows no speakers beyond a window.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from backends.audio.mapped import read_samples
from backends.diarization.fbank import FRAME, HOP
from backends.diarization.networks import WINDOW_SAMPLES, Encoder, Segmenter
from backends.diarization.windows import Grid, cells_of, clean_seconds, voices
from backends.interface import Samples

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]


class Voice(NamedTuple):
    """A voice of a window: place 0..2 in it; clean: seconds for which it speaks alone."""

    window: int
    place: int
    clean: float
    embedding: Floats


class Recording:
    """Segments windows and encodes their voices; `done` once there is nothing left to do."""

    def __init__(self, samples: Samples, spacing: int, segmenter: Segmenter, encoder: Encoder) -> None:
        """spacing: samples from one window's start to the next's."""
        self.grid = Grid(len(samples), spacing)
        self.voices: list[Voice] = []
        self.active: list[Bools] = []  # of each window
        self._samples, self._segmenter, self._encoder = samples, segmenter, encoder
        self._encoded = 0  # blocks
        self._gathered: dict[tuple[int, int], Any] = {}  # (window, voice) -> what the encoder knows of it

    @property
    def done(self) -> bool:
        return self._encoded == self.grid.blocks

    @property
    def windows_done(self) -> int:
        return len(self.active)

    def advance(self, windows: int) -> None:
        """Segment so many windows more, and encode the blocks that these complete.

        Nothing is kept of a step that raises.
        """
        first = len(self.active)
        batch = [self._window(number) for number in range(first, min(first + windows, self.grid.windows))]
        fresh = list(self._segmenter.active(np.stack(batch))) if batch else []
        active = [*self.active, *fresh]
        gathered = dict(self._gathered)
        ready = self.grid.complete(len(active))
        for block in range(self._encoded, ready):
            self._encode(block, active, gathered)
        finished = self._finished(active, gathered, ready)
        self.active, self._encoded, self._gathered = active, ready, gathered
        self.voices += finished

    def _window(self, number: int) -> Samples:
        return self._piece(self.grid.start(number), WINDOW_SAMPLES)

    def _piece(self, first: int, length: int) -> Samples:
        """Samples [length], zeros beyond the end of the recording."""
        piece = read_samples(self._samples, first, first + length)
        return np.pad(piece, (0, length - len(piece)))

    def _encode(self, block: int, active: list[Bools], gathered: dict[tuple[int, int], Any]) -> None:
        first = block * WINDOW_SAMPLES
        cells = -(-min(WINDOW_SAMPLES, self.grid.length - first) // self._encoder.cell_samples)
        masks = {number: self._mask(active[number], number, first, cells) for number in self.grid.within(block)}
        if not any(mask.any() for mask in masks.values()):
            return
        length = cells * self._encoder.cell_samples + FRAME - HOP
        features = self._encoder.features(self._piece(first, max(length, FRAME)))[:cells]
        for number, mask in masks.items():
            for voice in np.flatnonzero(mask.any(0)).tolist():
                key = (number, voice)
                gathered[key] = self._encoder.gathered(gathered.get(key), features[mask[: len(features), voice]])

    def _mask(self, active: Bools, number: int, first: int, cells: int) -> Bools:
        offset = first - self.grid.start(number)
        return cells_of(voices(active), offset, cells, self._encoder.cell_samples)

    def _finished(self, active: list[Bools], gathered: dict[tuple[int, int], Any], ready: int) -> list[Voice]:
        """The voices of windows that lie wholly in encoded blocks; what was gathered of them is let go."""
        whole = ready * WINDOW_SAMPLES
        over = ready == self.grid.blocks
        keys = [key for key in gathered if over or self.grid.start(key[0]) + WINDOW_SAMPLES <= whole]
        return [
            Voice(
                window, place, float(clean_seconds(active[window])[place]), self._encoder.embedding(gathered.pop(key))
            )
            for key in keys
            for window, place in (key,)
        ]


def embed_clip(samples: Samples, segmenter: Segmenter, encoder: Encoder) -> Floats | None:
    """What the voice of a clip of at most 10 s is like, the one that speaks most; None where nobody speaks."""
    window = np.pad(samples[:WINDOW_SAMPLES], (0, max(0, WINDOW_SAMPLES - len(samples))))
    active = segmenter.active(window[None])[0]
    voice = int(active.sum(0).argmax())
    cells = -(-min(WINDOW_SAMPLES, len(samples)) // encoder.cell_samples)
    mask = cells_of(voices(active), 0, cells, encoder.cell_samples)[:, voice]
    if not mask.any():
        return None
    padded = np.pad(window, (0, FRAME))[: cells * encoder.cell_samples + FRAME - HOP]
    features = encoder.features(padded)[:cells]
    return encoder.embedding(encoder.gathered(None, features[mask[: len(features)]]))
