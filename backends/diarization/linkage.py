"""Agglomerative clustering with centroid linkage: the two clusters with the nearest centroids become one, until none
are near enough. Knows vectors only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


def agglomerate(points: Doubles, threshold: float) -> NDArray[np.intp]:
    """Clusters [n], numbered from 0, of points [n, dimensions]; threshold: distance up to which clusters are joined.

    Takes memory for n * n distances.
    """
    if not len(points):
        return np.zeros(0, np.intp)
    clusters = _Clusters(points)
    while clusters.least <= threshold:
        clusters.join_nearest()
    return np.unique(clusters.labels, return_inverse=True)[1].astype(np.intp)


class _Clusters:
    """The clusters of the moment; each bears the index of one of its points."""

    def __init__(self, points: Doubles) -> None:
        self.labels = np.arange(len(points))
        self._centroids, self._sizes = points.astype(np.float64), np.ones(len(points))
        lengths = (self._centroids**2).sum(1)
        squared = lengths[:, None] + lengths[None, :] - 2 * self._centroids @ self._centroids.T
        self._squared = np.maximum(squared, 0.0)
        np.fill_diagonal(self._squared, np.inf)
        self._nearest, self._distances = self._squared.argmin(1), self._squared.min(1)

    @property
    def least(self) -> float:
        """Distance of the two nearest centroids; infinite for one cluster."""
        return float(np.sqrt(self._distances.min()))

    def join_nearest(self) -> None:
        kept = int(self._distances.argmin())
        absorbed = int(self._nearest[kept])
        self.labels[self.labels == absorbed] = kept
        total = self._sizes[kept] + self._sizes[absorbed]
        moved = self._sizes[absorbed] / total * (self._centroids[absorbed] - self._centroids[kept])
        self._centroids[kept] += moved
        self._sizes[kept], self._sizes[absorbed] = total, 0
        self._measure(kept, absorbed)

    def _measure(self, kept: int, absorbed: int) -> None:
        """Bring distances and nearest neighbours up to date."""
        row = ((self._centroids - self._centroids[kept]) ** 2).sum(1)
        row[self._sizes == 0] = row[kept] = np.inf
        self._squared[kept], self._squared[:, kept] = row, row
        self._squared[absorbed], self._squared[:, absorbed] = np.inf, np.inf
        stale = np.isin(self._nearest, (kept, absorbed)) & (self._sizes > 0)
        stale[kept] = True
        self._distances[absorbed] = np.inf
        closer = row < self._distances
        self._nearest[closer], self._distances[closer] = kept, row[closer]
        for index in np.flatnonzero(stale):
            self._nearest[index] = self._squared[index].argmin()
            self._distances[index] = self._squared[index, self._nearest[index]]
