"""VBx: who speaks in which embedding, and how many speakers there are, by variational Bayes (Landini et al. 2022).

A mixture whose components are speakers: those that explain nothing lose their weight. Knows vectors only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

ACOUSTIC_SCALE = 0.07  # Fa, and Fb below: as pyannote's community-1 is tuned, for windows a second apart
SPEAKER_REGULARISATION = 0.8
_SMOOTHING = 7.0  # how sure the first clusters are taken for
_ITERATIONS = 20
_LEAST_GAIN = 1e-4  # of the evidence bound
_LEAST_WEIGHT = 1e-7  # speakers with less are none


class Mixture(NamedTuple):
    """responsibilities: [n, speakers], rows that sum to one; weights: [speakers]."""

    responsibilities: Doubles
    weights: Doubles


def vbx(vectors: Doubles, phi: Doubles, first: NDArray[np.intp], scale: float = ACOUSTIC_SCALE) -> Mixture:
    """Refine clusters.

    vectors: [n, dimensions], within-speaker covariance one; phi: [dimensions], between speakers; first: [n], clusters
    to begin with, from 0; scale: weight of one vector, less where they overlap more. Speakers without weight are left
    out.
    """
    gamma = _begun(first)
    weights = np.full(gamma.shape[1], 1.0 / gamma.shape[1])
    constant = -0.5 * ((vectors**2).sum(1, keepdims=True) + vectors.shape[1] * np.log(2 * np.pi))
    rho = vectors * np.sqrt(phi)
    ratio, bound = scale / SPEAKER_REGULARISATION, -np.inf
    for _ in range(_ITERATIONS):
        precision = 1.0 / (1.0 + ratio * gamma.sum(0)[:, None] * phi)  # posterior variance of each speaker's latent
        latent = ratio * precision * (gamma.T @ rho)
        likelihood = scale * (rho @ latent.T - 0.5 * ((precision + latent**2) @ phi) + constant)
        gamma, evidence = _posterior(likelihood + np.log(weights + 1e-8))
        weights = gamma.sum(0) / gamma.sum()
        before = bound
        bound = evidence + 0.5 * SPEAKER_REGULARISATION * float((np.log(precision) - precision - latent**2 + 1).sum())
        if bound - before < _LEAST_GAIN:
            break
    kept = weights > _LEAST_WEIGHT
    return Mixture(gamma[:, kept], weights[kept])


def _begun(first: NDArray[np.intp]) -> Doubles:
    """Responsibilities that are nearly those of the first clusters."""
    scores = np.zeros((len(first), int(first.max()) + 1))
    scores[np.arange(len(first)), first] = _SMOOTHING
    return _posterior(scores)[0]


def _posterior(scores: Doubles) -> tuple[Doubles, float]:
    """Softmax of each row, and the sum of the rows' log-sum-exp."""
    highest = scores.max(1, keepdims=True)
    shares = np.exp(scores - highest)
    total = shares.sum(1, keepdims=True)
    return shares / total, float((np.log(total) + highest).sum())
