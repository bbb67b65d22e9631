"""VBx against the same model written down with whole matrices and scipy's densities."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from backends.diarization.vbx import ACOUSTIC_SCALE, SPEAKER_REGULARISATION, vbx


def reference(vectors: np.ndarray, phi: np.ndarray, first: np.ndarray, scale: float) -> np.ndarray:
    """Responsibilities [n, speakers], of all speakers: a vector is its speaker's latent, times the loading, plus
    standard noise."""
    count, size = first.max() + 1, len(phi)
    loading, unit = np.diag(np.sqrt(phi)), np.eye(size)
    gamma = np.exp(7.0 * np.eye(count)[first])
    gamma /= gamma.sum(1, keepdims=True)
    weights, before = np.full(count, 1 / count), -np.inf
    for _ in range(20):
        scores, divergence = np.empty((len(vectors), count)), 0.0
        for speaker in range(count):
            share = scale / SPEAKER_REGULARISATION * gamma[:, speaker]
            covariance = np.linalg.inv(unit + share.sum() * loading.T @ loading)
            mean = covariance @ loading.T @ (share @ vectors)
            density = multivariate_normal(loading @ mean, unit).logpdf(vectors)
            scores[:, speaker] = scale * (density - 0.5 * np.trace(loading @ covariance @ loading.T))
            divergence += 0.5 * (np.trace(covariance) + mean @ mean - size - np.linalg.slogdet(covariance)[1])
        scores += np.log(weights + 1e-8)
        evidence = logsumexp(scores, axis=1)
        gamma = np.exp(scores - evidence[:, None])
        weights = gamma.mean(0)
        bound = evidence.sum() - SPEAKER_REGULARISATION * divergence
        if bound - before < 1e-4:
            break
        before = bound
    return gamma


@pytest.mark.parametrize("scale", [ACOUSTIC_SCALE, 0.4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_vbx_is_the_inference_of_its_model(scale: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    phi = np.linspace(3, 0.2, 12)
    speakers = random.standard_normal((3, 12)) * np.sqrt(phi)
    vectors = speakers[random.integers(0, 3, 60)] + random.standard_normal((60, 12))
    first = random.integers(0, 5, 60).astype(np.intp)
    expected = reference(vectors, phi, first, scale)
    found = vbx(vectors, phi, first, scale)
    kept = expected.mean(0) > 1e-7
    np.testing.assert_allclose(found.responsibilities, expected[:, kept], atol=1e-8)
    np.testing.assert_allclose(found.weights, expected.mean(0)[kept], atol=1e-8)
