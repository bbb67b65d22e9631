"""Rotary position embedding: frequencies, their Llama-3 rescaling, and the rotation itself.

Two conventions are in use. *Interleaved*: dims 2j and 2j+1 of a head are a pair (torchtune, Meta's files).
*Half-split*: dim j is a pair with dim j + D/2 (transformers, LLaDA). They differ by a fixed permutation of each head's
dims, and q.k does not change when both sides are permuted alike, so the core computes the interleaved form only, as one
complex product, and half-split checkpoints have the rows of their q and k matrices permuted while they are loaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama-3's frequency rescaling: waves longer than the old context / low_freq_factor are slowed by `factor`."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: float


@dataclass(frozen=True, slots=True)
class Rope:
    """theta: base of the frequencies; interleaved: the convention of the checkpoint's q and k rows."""

    theta: float = 10_000.0
    scaling: Llama3Scaling | None = None
    interleaved: bool = False


def frequencies(rope: Rope, head_dim: int) -> Tensor:
    """Radians per position, float32 [head_dim / 2]."""
    plain = 1.0 / (rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim))
    return plain if rope.scaling is None else _rescaled(plain, rope.scaling)


def _rescaled(plain: Tensor, scaling: Llama3Scaling) -> Tensor:
    wavelength = 2 * math.pi / plain
    old, low, high = scaling.original_max_positions, scaling.low_freq_factor, scaling.high_freq_factor
    blend = ((old / wavelength - low) / (high - low)).clamp(0.0, 1.0)  # 0 = slowed by the factor, 1 = kept
    return (1 - blend) * plain / scaling.factor + blend * plain


def rotations(rope: Rope, head_dim: int, positions: int, device: torch.device | str = "cpu") -> Tensor:
    """exp(i * position * frequency) for every position, complex64 [positions, head_dim / 2]."""
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies(rope, head_dim))
    return torch.polar(torch.ones_like(angles), angles).to(device)


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotate x [..., heads, head_dim] by rotary, complex [..., 1 or heads, head_dim / 2]; in float32, cast back."""
    exact = x.dtype is torch.float32
    pairs = torch.view_as_complex((x if exact else x.float()).view(*x.shape[:-1], -1, 2))
    rotated = torch.view_as_real(pairs * rotary).view(x.shape)
    return rotated if exact else rotated.to(x.dtype)


def interleave(weight: Tensor, heads: int) -> Tensor:
    """Reorder the rows of a half-split q or k matrix [heads * D, in]: row p*D/2 + j of a head becomes row 2j + p."""
    width = weight.shape[0] // heads
    return weight.reshape(heads, 2, width // 2, -1).transpose(1, 2).reshape(weight.shape)


def half_split(weight: Tensor, heads: int) -> Tensor:
    """The inverse of `interleave`."""
    width = weight.shape[0] // heads
    return weight.reshape(heads, width // 2, 2, -1).transpose(1, 2).reshape(weight.shape)
