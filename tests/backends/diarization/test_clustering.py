"""Agglomeration, VBx and the assignment, on points whose clusters are known."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

from backends.diarization import clustering
from backends.diarization.clustering import Clustering, SpeakerLimits, agglomerate_in_blocks, assign, joined
from backends.diarization.linkage import agglomerate
from backends.diarization.vbx import vbx


def blobs(
    sizes: tuple[int, ...], *, spread: float, dimensions: int = 256, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors [n, dimensions] around random directions, and whose each is."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((len(sizes), dimensions))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    points = centres[labels] + spread * random.standard_normal((len(labels), dimensions))
    order = random.permutation(len(labels))
    return (points / np.linalg.norm(points, axis=1, keepdims=True))[order], labels[order]


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    return (
        len(set(zip(one.tolist(), other.tolist(), strict=True))) == len(set(one.tolist())) == len(set(other.tolist()))
    )


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.9, 1.2])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agglomeration_is_centroid_linkage(threshold: float, seed: int) -> None:
    points, _ = blobs((20, 11, 5, 1), spread=0.6, dimensions=8, seed=seed)
    expected = fcluster(linkage(points, "centroid"), threshold, "distance")
    assert same_partition(agglomerate(points, threshold), expected)


@pytest.mark.parametrize("count", [0, 1])
def test_little_is_agglomerated_too(count: int) -> None:
    assert agglomerate(np.ones((count, 3)), 0.5).tolist() == [0] * count


def test_many_points_are_clustered_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    points, labels = blobs((40, 30, 20), spread=0.3)
    monkeypatch.setattr(clustering, "BLOCK", 25)
    assert same_partition(agglomerate_in_blocks(points, 0.7), labels)


def test_vbx_finds_how_many_speakers_there_are() -> None:
    """From far too many clusters to the three that explain the vectors."""
    random = np.random.default_rng(0)
    phi = np.linspace(20, 1, 32)
    speakers = random.standard_normal((3, 32)) * np.sqrt(phi)
    labels = random.integers(0, 3, 200)
    vectors = speakers[labels] + random.standard_normal((200, 32))
    found = vbx(vectors, phi, (labels * 4 + random.integers(0, 4, 200)).astype(np.intp), scale=0.2)
    strongest = found.weights > 0.01
    assert strongest.sum() == 3
    assert same_partition(found.responsibilities.argmax(1), labels)
    np.testing.assert_allclose(found.responsibilities.sum(1), 1, atol=1e-6)


def test_speakers_who_are_alike_are_one() -> None:
    """Four clusters of two directions: what VBx leaves apart where there is much to hear."""
    points, labels = blobs((12, 12), spread=0.3)
    shares = np.eye(4)[labels * 2 + np.arange(len(labels)) % 2]
    found = joined(shares.copy(), points)
    assert found.shape == (24, 2)
    assert same_partition(found.argmax(1), labels)
    np.testing.assert_allclose(found.sum(1), 1)
    unlike, _ = blobs((1, 1, 1), spread=0.0)
    np.testing.assert_array_equal(joined(np.eye(3), unlike), np.eye(3))
    assert joined(np.ones((2, 1)), unlike[:2]).shape == (2, 1)


@pytest.mark.parametrize(
    ("limits", "expected"), [(SpeakerLimits(), 3), (SpeakerLimits(2, 2), 2), (SpeakerLimits(5, 5), 5)]
)
def test_limits_on_the_number_of_speakers_hold(limits: SpeakerLimits, expected: int) -> None:
    points, _ = blobs((12, 9, 6), spread=0.3)
    assert len(Clustering(0.7, None, 2.5).centroids(points.astype(np.float32), limits)) == expected


def test_nothing_has_no_speakers_and_little_has_few() -> None:
    plain = Clustering(0.7, None, 2.5)
    assert len(plain.centroids(np.zeros((0, 256), np.float32), SpeakerLimits(3, 3))) == 0
    assert len(plain.centroids(np.ones((1, 256), np.float32), SpeakerLimits(3, 3))) == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (2, 1), (2, 5), (3, 2), (3, 3), (4, 7)])
def test_an_assignment_is_the_best_there_is(shape: tuple[int, int]) -> None:
    rows, columns = shape
    for seed in range(20):
        scores = np.random.default_rng(seed).standard_normal(shape)
        padded = np.concatenate([scores, np.zeros((rows, max(0, rows - columns)))], axis=1)
        tries = (p for p in permutations(range(padded.shape[1]), rows) if columns < rows or max(p) < columns)
        best = max(sum(padded[row, column] for row, column in enumerate(p)) for p in tries)
        found = assign(scores)
        real = [column for column in found if column >= 0]
        assert len(set(real)) == len(real) == min(rows, columns)
        assert sum(scores[row, column] for row, column in enumerate(found) if column >= 0) == pytest.approx(best)
