"""From the embeddings of all windows to speakers: how many there are, and whose each voice of a window is.

Owns the start by agglomeration, VBx where the transform for it is there, the joining of what VBx left apart, limits on
the number of speakers, and the assignment in which two voices of one window are never the same speaker. Knows no audio.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from backends.diarization.linkage import agglomerate
from backends.diarization.plda import Plda, unit
from backends.diarization.vbx import ACOUSTIC_SCALE, vbx

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]

BLOCK = 2000  # embeddings agglomerated at once; more are clustered in blocks, and then the blocks' clusters
# Cosine of two speakers' mean embeddings from which they are one. What VBx finds grows with the recording: the evidence
# adds up, its prior does not, so in the end every cluster of the agglomeration is a speaker. In 25 conversations of ten
# real people, 0.6 and 0.65 found the right number most often, as they were and with three and six times the evidence.
_ALIKE = 0.6
_KMEANS_STARTS, _KMEANS_ROUNDS = 10, 20


@dataclass(frozen=True, slots=True)
class SpeakerLimits:
    """fewest, most: speakers that may be found, most None = any number."""

    fewest: int = 1
    most: int | None = None

    def within(self, count: int) -> int:
        return max(self.fewest, count if self.most is None else min(count, self.most))


@dataclass(frozen=True, slots=True)
class Clustering:
    """How clusters are found. threshold: of the agglomeration, a distance of unit vectors; plda: None where the model
    brings none; spacing: seconds between windows."""

    threshold: float
    plda: Plda | None
    spacing: float

    def centroids(self, embeddings: Floats, limits: SpeakerLimits) -> Doubles:
        """The speakers' mean embeddings [speakers, dimensions]; embeddings: [n, dimensions] of clean speech."""
        if not len(embeddings):
            return np.zeros((0, embeddings.shape[1]))
        exact = embeddings.astype(np.float64)
        shares = self._shares(embeddings, agglomerate_in_blocks(unit(exact), self.threshold))
        wanted = min(limits.within(shares.shape[1]), len(embeddings))
        if wanted != shares.shape[1]:
            shares = _one_hot(_kmeans(unit(exact), wanted))
        centroids: Doubles = shares.T @ exact / shares.sum(0)[:, None]
        return centroids

    def _shares(self, embeddings: Floats, first: NDArray[np.intp]) -> Doubles:
        """How much each embedding belongs to each speaker [n, speakers]."""
        if self.plda is None or len(embeddings) < 2:
            return _one_hot(first)
        scale = min(1.0, ACOUSTIC_SCALE * self.spacing)
        return joined(vbx(self.plda.transform(embeddings), self.plda.phi, first, scale).responsibilities, embeddings)


def joined(shares: Doubles, embeddings: NDArray[np.floating]) -> Doubles:
    """Shares [n, speakers] of embeddings [n, dimensions] in which speakers who are alike are one, the most alike
    first."""
    while shares.shape[1] > 1:
        means = shares.T @ embeddings / shares.sum(0)[:, None]
        alike = similarities(means, means)
        np.fill_diagonal(alike, -np.inf)
        kept, other = sorted(np.unravel_index(int(alike.argmax()), alike.shape))
        if alike[kept, other] < _ALIKE:
            break
        shares[:, kept] += shares[:, other]
        shares = np.delete(shares, other, axis=1)
    return shares


def agglomerate_in_blocks(points: Doubles, threshold: float) -> NDArray[np.intp]:
    """Clusters [n] of points [n, dimensions], within the memory of a block of distances."""
    if len(points) <= BLOCK:
        return agglomerate(points, threshold)
    labels = np.zeros(len(points), np.intp)
    for first in range(0, len(points), BLOCK):
        part = agglomerate(points[first : first + BLOCK], threshold)
        labels[first : first + BLOCK] = part + (labels[:first].max() + 1 if first else 0)
    shares = _one_hot(labels)
    return agglomerate_in_blocks(shares.T @ points / shares.sum(0)[:, None], threshold)[labels]


def _one_hot(labels: NDArray[np.intp]) -> Doubles:
    shares = np.zeros((len(labels), int(labels.max()) + 1))
    shares[np.arange(len(labels)), labels] = 1.0
    return shares


def _kmeans(points: Doubles, count: int) -> NDArray[np.intp]:
    """Labels [n] of `count` clusters, none of them empty: the best of several starts, the same ones each time."""
    random = np.random.default_rng(0)
    tries = [_kmeans_once(points, _spread(points, count, random)) for _ in range(_KMEANS_STARTS)]
    return np.unique(min(tries, key=lambda found: found[1])[0], return_inverse=True)[1].astype(np.intp)


def _spread(points: Doubles, count: int, random: np.random.Generator) -> Doubles:
    """Points far from each other to start from (k-means++)."""
    chosen = [int(random.integers(len(points)))]
    while len(chosen) < count:
        nearest = _squared_distances(points, points[chosen]).min(1)
        total = nearest.sum()
        chosen.append(int(random.choice(len(points), p=nearest / total)) if total > 0 else len(chosen))
    return points[chosen]


def _kmeans_once(points: Doubles, centres: Doubles) -> tuple[NDArray[np.intp], float]:
    for _ in range(_KMEANS_ROUNDS):
        distances = _squared_distances(points, centres)
        labels = distances.argmin(1)
        centres = np.array([points[labels == k].mean(0) if (labels == k).any() else c for k, c in enumerate(centres)])
    return labels, float(distances.min(1).sum())


def _squared_distances(points: Doubles, centres: Doubles) -> Doubles:
    squared: Doubles = np.maximum((points**2).sum(1)[:, None] + (centres**2).sum(1) - 2 * points @ centres.T, 0.0)
    return squared


def similarities(embeddings: NDArray[np.floating], centroids: Doubles) -> Doubles:
    """Cosines [n, speakers]."""
    cosines: Doubles = unit(embeddings.astype(np.float64)) @ unit(centroids).T
    return cosines


def assign(scores: Doubles) -> list[int]:
    """The column for each row of scores [rows, columns], no column twice, so that their sum is the largest; -1 for rows
    that are left over. Exact, for few rows: a row takes one of its best columns, as many as there are rows."""
    rows, columns = scores.shape
    best = np.argsort(-scores, axis=1, kind="stable")[:, :rows].tolist()
    choices = [[*options, -1] if columns < rows else options for options in best]
    tries = (chosen for chosen in product(*choices) if _distinct(chosen, min(rows, columns)))
    return list(
        max(tries, key=lambda chosen: sum(scores[row, column] for row, column in enumerate(chosen) if column >= 0))
    )


def _distinct(chosen: tuple[int, ...], used: int) -> bool:
    real = [column for column in chosen if column >= 0]
    return len(real) == used and len(set(real)) == used
