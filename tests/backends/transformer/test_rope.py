"""Rotary positions against the published frequencies and against both conventions."""

from pathlib import Path

import numpy as np
import pytest
import torch

from backends.transformer.rope import Llama3Scaling, Rope, frequencies, half_split, interleave, rotate, rotations

DATA = Path(__file__).parents[2] / "data" / "csm" / "rope.npz"
LLAMA = Rope(500_000.0, Llama3Scaling(32.0, 1.0, 4.0, 8192), interleaved=True)


@pytest.mark.parametrize("head_dim", [64, 128])
def test_rotation_matches_the_reference(head_dim: int) -> None:
    data = np.load(DATA)
    rotary = rotations(LLAMA, head_dim, 2048)
    rows = rotary[torch.from_numpy(data[f"cos_sin_{head_dim}_pos"])]
    assert np.allclose(frequencies(LLAMA, head_dim), data[f"theta_{head_dim}"], rtol=1e-6, atol=0)
    assert np.allclose(torch.view_as_real(rows), data[f"cos_sin_{head_dim}"], atol=2e-5)
    turned = rotate(torch.from_numpy(data[f"x_{head_dim}"]), rows[None, :, None])
    assert np.allclose(turned, data[f"y_{head_dim}"], atol=1e-4)


@pytest.mark.parametrize(
    ("head_dim", "old", "low", "high"), [(64, 1024, 0.125, 0.5), (128, 16, 0.001953125, 0.0078125)]
)
def test_published_rescaled_numbers_are_the_same_function(head_dim: int, old: int, low: float, high: float) -> None:
    other = Rope(500_000.0, Llama3Scaling(32.0, low, high, old))
    assert torch.allclose(frequencies(other, head_dim), frequencies(LLAMA, head_dim), rtol=1e-6)


def test_plain_frequencies() -> None:
    assert torch.allclose(frequencies(Rope(100.0), 4), torch.tensor([1.0, 0.1]))


def test_half_split_rows_give_the_same_scores_after_permutation() -> None:
    """q.k of half-split rows under half-split rotation equals that of the permuted rows under the interleaved one."""
    heads, width = 2, 8
    weight_q, weight_k = torch.randn(heads * width, 6), torch.randn(heads * width, 6)
    x = torch.randn(5, 6)
    rotary = rotations(Rope(100.0), width, 5)
    ours = [rotate((x @ interleave(w, heads).T).view(5, heads, width), rotary[:, None]) for w in (weight_q, weight_k)]
    angles = rotary.angle()[:, None].repeat(1, 1, 2)

    def half_split_rotation(y: torch.Tensor) -> torch.Tensor:
        first, second = y.chunk(2, -1)
        return y * angles.cos() + torch.cat([-second, first], -1) * angles.sin()

    theirs = [half_split_rotation((x @ w.T).view(5, heads, width)) for w in (weight_q, weight_k)]
    scores = [torch.einsum("ahd,bhd->hab", q, k) for q, k in (ours, theirs)]
    assert torch.allclose(*scores, atol=1e-5)


def test_permutations_are_inverse() -> None:
    weight = torch.randn(24, 3)
    assert torch.equal(half_split(interleave(weight, 3), 3), weight)
    assert not torch.equal(interleave(weight, 3), weight)


def test_rotation_in_half_precision_is_computed_in_float32() -> None:
    x = torch.randn(1, 3, 2, 8).bfloat16()
    rotary = rotations(Rope(10.0), 8, 3)[None, :, None]
    assert torch.equal(rotate(x, rotary), rotate(x.float(), rotary).bfloat16())
