"""From speaker embeddings to vectors in which differences between speakers are independent of each other.

Owns the file of the transform and probabilistic linear discriminant analysis (Ioffe 2006) as VBx uses it: the between-
speaker covariance is diagonal, the within-speaker one the identity. Knows no audio.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from backends.interface import ModelUnavailable

Doubles = NDArray[np.float64]

EMBEDDING = 256
REDUCED = 128  # dimensions after linear discriminant analysis
# The arrays of plda.dat in their order, little-endian: name, type, shape.
_LAYOUT: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("mean1", "<f8", (EMBEDDING,)),
    ("mean2", "<f4", (REDUCED,)),
    ("lda", "<f4", (EMBEDDING, REDUCED)),
    ("mu", "<f8", (REDUCED,)),
    ("tr", "<f8", (REDUCED, REDUCED)),
    ("psi", "<f8", (REDUCED,)),
)


@dataclass(frozen=True, slots=True)
class Plda:
    """mean1, lda, mean2: of the reduction; mu, basis: of the analysis; phi [128]: variance between speakers."""

    mean1: Doubles
    lda: Doubles
    mean2: Doubles
    mu: Doubles
    basis: Doubles
    phi: Doubles

    def transform(self, embeddings: NDArray[np.float32]) -> Doubles:
        """Embeddings [n, 256] as vectors [n, 128]."""
        centred = np.sqrt(EMBEDDING) * unit(embeddings.astype(np.float64) - self.mean1)
        reduced = np.sqrt(REDUCED) * unit(centred @ self.lda - self.mean2)
        vectors: Doubles = (reduced - self.mu) @ self.basis.T
        return vectors


def unit(vectors: Doubles) -> Doubles:
    """Each row at length one."""
    scaled: Doubles = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return scaled


def read_plda(path: Path) -> Plda:
    """Raises ModelUnavailable for a file that is not one."""
    with path.open("rb") as stream:
        arrays = {name: _array(stream, kind, shape) for name, kind, shape in _LAYOUT}
    if any(not np.isfinite(array).all() for array in arrays.values()):
        raise ModelUnavailable(f"{path} holds numbers that are none")
    basis, phi = _diagonal(arrays["tr"], arrays["psi"])
    return Plda(arrays["mean1"], arrays["lda"], arrays["mean2"], arrays["mu"], basis, phi)


def _array(stream: BinaryIO, kind: str, shape: tuple[int, ...]) -> Doubles:
    length = int(np.prod(shape)) * np.dtype(kind).itemsize
    data = stream.read(length)
    if len(data) != length:
        raise ModelUnavailable(f"{stream.name} is truncated")
    return np.frombuffer(data, kind).reshape(shape).astype(np.float64)


def _diagonal(tr: Doubles, psi: Doubles) -> tuple[Doubles, Doubles]:
    """The basis that makes the within-speaker covariance the identity and the between-speaker one diagonal, with that
    diagonal, the largest first: the generalised eigenvalues of both."""
    within = np.linalg.inv(tr.T @ tr)
    between = np.linalg.inv((tr.T / psi) @ tr)
    whitening = np.linalg.inv(np.linalg.cholesky(within))
    values, vectors = np.linalg.eigh(whitening @ between @ whitening.T)
    return (whitening.T @ vectors).T[::-1], values[::-1]
