"""A loaded diarization model: opens its files, takes recordings through it, and says who spoke when.

Owns the order of the steps and what they are tuned to. Knows no requests.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backends.diarization.clustering import Clustering, SpeakerLimits, assign, similarities
from backends.diarization.info import DiarizationOptions
from backends.diarization.networks import LOCAL_SPEAKERS, Encoder, Segmenter, open_encoder
from backends.diarization.plda import EMBEDDING, Plda, read_plda
from backends.diarization.recording import Recording, Voice, embed_clip
from backends.diarization.turns import Votes, by_appearance, turns_of
from backends.interface import ASR_SAMPLE_RATE, ModelUnavailable, Samples, SpeakerTurns, Turn

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

PLDA_FILE = "plda.dat"
_SEGMENTATION = ("segmentation.ort", "segmentation.onnx", "model.onnx")
_EMBEDDING = ("embedding.ort", "embedding.onnx")
# Seconds of a voice alone in a window from which its embedding counts for finding the speakers; the second applies
# where a recording has no two of the first.
_CLEAN_SECONDS = (2.0, 0.5)


@dataclass(frozen=True, slots=True)
class Diarizer:
    """Networks and settings of one deployment."""

    segmenter: Segmenter
    encoder: Encoder
    clustering: Clustering
    options: DiarizationOptions

    @property
    def method(self) -> str:
        """How speakers are found, for people."""
        return "agglomeration" if self.clustering.plda is None else "VBx"

    def recording(self, samples: Samples) -> Recording:
        return Recording(samples, round(self.options.window_step * ASR_SAMPLE_RATE), self.segmenter, self.encoder)

    def embed(self, clip: Samples) -> Floats | None:
        """What the voice of a clip is like; None where nobody speaks."""
        return embed_clip(clip, self.segmenter, self.encoder)

    def speaker_turns(
        self, recording: Recording, limits: SpeakerLimits, known: Sequence[Floats | None] = ()
    ) -> SpeakerTurns:
        """Who speaks when in a recording that is done; known: embeddings of known speakers."""
        centroids = self.clustering.centroids(_trusted(recording.voices), limits)
        votes = self._votes(recording, centroids)
        duration, options = recording.grid.length / ASR_SAMPLE_RATE, self.options
        turns = turns_of(votes.active(), duration, options.max_pause, options.min_turn)
        exclusive = turns_of(votes.exclusive(), duration, 0.0, 0.0)
        numbers = by_appearance([*turns, *exclusive])
        matches = self._known(known, centroids)
        return SpeakerTurns(
            _renumbered(turns, numbers), _renumbered(exclusive, numbers), tuple(numbers.get(m, -1) for m in matches)
        )

    def _votes(self, recording: Recording, centroids: Doubles) -> Votes:
        votes = Votes(recording.grid.length, len(centroids))
        by_window: dict[int, list[Voice]] = defaultdict(list)
        for voice in recording.voices:
            by_window[voice.window].append(voice)
        for number, active in enumerate(recording.active):
            votes.add(recording.grid.start(number), active, _speakers(by_window[number], centroids))
        return votes

    def _known(self, known: Sequence[Floats | None], centroids: Doubles) -> list[int]:
        """The speaker that each known one is, -1 where nobody is near enough."""
        given = [(number, one) for number, one in enumerate(known) if one is not None]
        found = [-1] * len(known)
        if given and len(centroids):
            scores = similarities(np.stack([one for _, one in given]), centroids)
            for row, column in enumerate(assign(scores)):
                if column >= 0 and scores[row, column] >= self.options.known_speaker_threshold:
                    found[given[row][0]] = column
        return found


def _trusted(voices: Sequence[Voice]) -> Floats:
    """The embeddings that the speakers are found by [n, dimensions]."""
    for least in _CLEAN_SECONDS:
        chosen = [voice.embedding for voice in voices if voice.clean >= least]
        if len(chosen) > 1:
            break
    return np.stack(chosen or [voice.embedding for voice in voices]) if voices else np.zeros((0, EMBEDDING), np.float32)


def _speakers(voices: Sequence[Voice], centroids: Doubles) -> list[int]:
    """The speaker of each voice of a window, never one for two; -1 for a voice that is not there."""
    found = [-1] * LOCAL_SPEAKERS
    if voices and len(centroids):
        scores = similarities(np.stack([voice.embedding for voice in voices]), centroids)
        for voice, speaker in zip(voices, assign(scores), strict=True):
            found[voice.place] = speaker
    return found


def _renumbered(turns: Sequence[Turn], numbers: dict[int, int]) -> tuple[Turn, ...]:
    return tuple(Turn(turn.start, turn.end, numbers[turn.speaker]) for turn in turns)


def open_diarizer(folder: Path, options: DiarizationOptions, threads: int) -> Diarizer:
    """Load the files in a folder. Raises ModelUnavailable."""
    encoder = open_encoder(_first(folder, _EMBEDDING), threads)
    clustering = Clustering(options.clustering_threshold, _plda(folder, encoder), options.window_step)
    return Diarizer(Segmenter(_first(folder, _SEGMENTATION), threads), encoder, clustering, options)


def _plda(folder: Path, encoder: Encoder) -> Plda | None:
    """The transform that belongs to the encoder; None where there is none."""
    file = folder / PLDA_FILE
    return read_plda(file) if file.is_file() and encoder.dimensions == EMBEDDING else None


def _first(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ModelUnavailable(f"{folder} has none of {', '.join(names)}")
