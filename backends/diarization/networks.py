"""The two networks: who is active when within a window, and what a voice is like.

Owns how their files are opened and what their tensors mean. Knows nothing of recordings longer than a window.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from backends.diarization.encoder_parts import split_encoder
from backends.diarization.fbank import HOP, fbank
from backends.interface import ModelUnavailable
from backends.onnx_session import open_session

Floats = NDArray[np.float32]

LOCAL_SPEAKERS = 3  # of whom a window tells apart
WINDOW_SAMPLES = 160_000  # 10 s at 16 kHz
FRAME_SAMPLES = 270  # from one frame of the segmentation to the next, 16.875 ms
FIRST_CENTRE = 495  # samples from the start of a window to the middle of its first frame's field of view


class Segmenter:
    """Speech activity of up to three speakers in windows of 10 s."""

    def __init__(self, path: Path, threads: int) -> None:
        """Raises ModelUnavailable for a file of another kind."""
        self._session = open_session(path.read_bytes(), threads, path.name)
        self._input = self._session.get_inputs()[0].name
        classes = self._session.get_outputs()[0].shape[-1]
        if classes not in (LOCAL_SPEAKERS, len(_POWERSET)):
            raise ModelUnavailable(
                f"{path.name} gives {classes} classes; {LOCAL_SPEAKERS} or {len(_POWERSET)} are known"
            )

    def active(self, windows: Floats) -> NDArray[np.bool_]:
        """windows: float32 [batch, 160000]; returns bool [batch, frames, 3]."""
        return speakers_of(np.asarray(self._session.run(None, {self._input: windows[:, None, :]})[0]))


def speakers_of(scores: Floats) -> NDArray[np.bool_]:
    """Scores [batch, frames, classes] as activity of three speakers. Seven classes are the sets of at most two."""
    active: NDArray[np.bool_] = scores > 0.5 if scores.shape[-1] == LOCAL_SPEAKERS else _POWERSET[scores.argmax(-1)]
    return active


def _powerset() -> NDArray[np.bool_]:
    """Which speakers each class means, in the order of this kind of model: nobody, one alone, pairs."""
    sets = [members for size in range(3) for members in combinations(range(LOCAL_SPEAKERS), size)]
    return np.array([[speaker in members for speaker in range(LOCAL_SPEAKERS)] for members in sets])


_POWERSET = _powerset()


class Statistics(NamedTuple):
    """Of the features of one voice: how many, their sum and the sum of their squares, float64 [dimensions]."""

    cells: int
    total: NDArray[np.float64]
    squares: NDArray[np.float64]


class Encoder(Protocol):
    """What a voice is like, in steps, so that all speakers of a block share the costly one.

    cell_samples: samples per feature; dimensions: of an embedding.
    """

    cell_samples: int
    dimensions: int

    def features(self, samples: Floats) -> Floats:
        """Features float32 [cells, size] of a block; give it FRAME - HOP samples more than its cells take."""

    def gathered(self, before: Any, features: Floats) -> Any:
        """What is known of a voice after more of its features; before: None for the first."""

    def embedding(self, gathered: Any) -> Floats:
        """float32 [dimensions]."""


class SplitEncoder:
    """A ResNet with statistics pooling (WeSpeaker), cut where it pools: what comes before has no need to know who
    speaks."""

    cell_samples = 8 * HOP  # the network halves the frames three times

    def __init__(self, features: bytes, head: bytes, threads: int, name: str) -> None:
        self._features, self._head = open_session(features, threads, name), open_session(head, 1, name)
        self._input, self._pooled = self._features.get_inputs()[0].name, self._head.get_inputs()[0].name
        self.dimensions = int(self._head.get_outputs()[0].shape[-1])

    def features(self, samples: Floats) -> Floats:
        mels = fbank(samples)
        vectors: Floats = self._features.run(None, {self._input: (mels - mels.mean(0))[None]})[0][0].T
        return vectors

    def gathered(self, before: Statistics | None, features: Floats) -> Statistics:
        exact = features.astype(np.float64)
        more = Statistics(len(exact), exact.sum(0), (exact**2).sum(0))
        if before is None:
            return more
        return Statistics(before.cells + more.cells, before.total + more.total, before.squares + more.squares)

    def embedding(self, gathered: Statistics) -> Floats:
        mean = gathered.total / gathered.cells
        variance = np.maximum(gathered.squares - gathered.cells * mean**2, 0) / max(gathered.cells - 1, 1)
        pooled = np.concatenate([mean, np.sqrt(variance)]).astype(np.float32)
        vector: Floats = self._head.run(None, {self._pooled: pooled[None]})[0][0]
        return vector


class WholeEncoder:
    """Any encoder that takes filter banks [batch, frames, 80]: it is given the frames in which the voice speaks."""

    cell_samples = HOP
    _MOST_FRAMES = 1000  # 10 s; one window has no more

    def __init__(self, model: bytes, threads: int, name: str) -> None:
        """Raises ModelUnavailable for one that takes something else."""
        self._session = open_session(model, threads, name)
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 3:
            raise ModelUnavailable(f"{name} does not take filter banks [batch, frames, 80] and nothing else")
        self._input = inputs[0].name
        self.dimensions = int(self._session.get_outputs()[0].shape[-1])

    def features(self, samples: Floats) -> Floats:
        mels = fbank(samples)
        centred: Floats = mels - mels.mean(0)
        return centred

    def gathered(self, before: Floats | None, features: Floats) -> Floats:
        return (features if before is None else np.concatenate([before, features]))[: self._MOST_FRAMES]

    def embedding(self, gathered: Floats) -> Floats:
        vector: Floats = self._session.run(None, {self._input: gathered[None]})[0][0]
        return vector


def open_encoder(path: Path, threads: int) -> Encoder:
    """The encoder in a file, cut in two where that is possible. Raises ModelUnavailable."""
    parts = split_encoder(path)
    if parts is None:
        return WholeEncoder(path.read_bytes(), threads, path.name)
    return SplitEncoder(*parts, threads, path.name)
