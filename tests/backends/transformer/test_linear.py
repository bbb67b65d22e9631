"""Number formats of the matrix products."""

import pytest
import torch

from backends.interface import InvalidInput
from backends.transformer.kernel_checks import NARROW_LEVELS, int8_kernel
from backends.transformer.linear import (
    Int8Dynamic,
    Int8OneDnn,
    Int8Weights,
    Precision,
    make_linear,
    precision,
    quantised_rows,
)


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 64), (3, 64), (2, 5, 64)])
@pytest.mark.parametrize(("kind", "error"), [("float32", 1e-6), ("bfloat16", 0.01)])
def test_products_are_near_the_exact_one(kind: str, error: float, shape: tuple[int, ...]) -> None:
    weight, x = matrix(48, 64), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    kept = precision(kind)
    y = make_linear(weight, kept)(x.to(kept.compute))
    exact = x @ weight.T
    assert y.shape == exact.shape
    assert y.dtype == kept.compute
    assert (y.float() - exact).abs().max() <= error * exact.abs().max()


def int8_bound(weight: torch.Tensor, x: torch.Tensor, levels: int) -> torch.Tensor:
    """By how much an int8 product may miss the exact one: half a step of every weight and of every activation, and
    rounding.

    A row's activations have 255 levels between minus and plus its peak, or 254 (oneDNN).
    """
    quantised, scale = quantised_rows(weight, levels)
    of_weights = x.abs().sum(-1, keepdim=True) * scale / 2
    of_activations = x.abs().amax(-1, keepdim=True) / 254 * (quantised.float().abs().sum(1) * scale)
    return of_weights + of_activations + 1e-5 * x.abs() @ weight.abs().T


@pytest.mark.parametrize("shape", [(1, 64), (3, 64), (2, 5, 64), (20, 64)])
@pytest.mark.parametrize("kind", [Int8Dynamic, Int8OneDnn])
def test_int8_products_miss_the_exact_one_by_what_quantising_costs(kind: type, shape: tuple[int, ...]) -> None:
    for seed in range(20):
        weight, x = matrix(48, 64, seed), torch.randn(shape, generator=torch.Generator().manual_seed(100 + seed))
        error = (kind(weight, NARROW_LEVELS)(x) - x @ weight.T).abs()
        assert (error <= int8_bound(weight, x, NARROW_LEVELS)).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_int8_sums_of_the_largest_values_do_not_saturate(sign: int) -> None:
    """Pairs of their products would, where they are added in 16 bits."""
    kernel = int8_kernel()
    assert kernel is not None
    signs = torch.where(matrix(48, 64) > 0, 3.0, -3.0)
    for weight in (torch.full((48, 64), 3.0 * sign), signs):
        x = torch.cat([torch.full((1, 64), 2.0), torch.where(weight[:3] > 0, 2.0, -2.0)])
        error = (make_linear(weight, precision("int8"))(x) - x @ weight.T).abs()
        assert (error <= int8_bound(weight, x, kernel.levels)).all()


def test_int8_rows_are_quantised_each_by_itself() -> None:
    """A row a million times larger beside it takes nothing from a small row's resolution."""
    linear, x = make_linear(matrix(32, 64), precision("int8")), matrix(3, 64, 2)
    loud = x.clone()
    loud[1] *= 1e6
    assert torch.equal(linear(x)[0], linear(loud)[0])
    assert torch.equal(linear(x)[2], linear(x[2:])[0])


def test_a_large_matrix_is_quantised_by_parts_as_if_whole() -> None:
    weight = torch.randn(2 * 2048 + 3, 5, dtype=torch.bfloat16)
    quantised, scale = quantised_rows(weight)
    whole = weight.float()
    assert torch.equal(scale, whole.abs().amax(1) / 127)
    assert torch.equal(quantised, (whole / scale[:, None]).round().to(torch.int8))


def test_int8_of_a_silent_row_is_zero() -> None:
    linear = make_linear(matrix(32, 64), precision("int8"))
    assert torch.equal(linear(torch.zeros(1, 64)), torch.zeros(1, 32))


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_fixed_rows_make_the_number_of_rows_harmless(kind: str) -> None:
    kept = precision(kind)
    linear, x = make_linear(matrix(96, 64), kept, rows=4), matrix(4, 64, 3).to(kept.compute)
    together = linear(x)
    for row in range(4):
        assert torch.equal(linear(x[row : row + 1]), together[row : row + 1])
    assert linear(matrix(6, 64).to(kept.compute)).shape == (6, 96)


def test_tiny_matrices_stay_dense() -> None:
    weight, x = matrix(8, 4), matrix(1, 4)
    assert torch.allclose(make_linear(weight, Precision(torch.float32, "int8"))(x), x @ weight.T, atol=1e-6)


def test_bytes_are_those_of_the_format() -> None:
    weight = matrix(64, 128)
    assert make_linear(weight, precision("float32")).bytes() == 4 * 64 * 128
    assert make_linear(weight, precision("bfloat16")).bytes() == 2 * 64 * 128
    assert 64 * 128 < make_linear(weight, precision("int8")).bytes() < 1.15 * 64 * 128


def test_int8_weights_with_activations_as_they_are() -> None:
    """What a CUDA device gets; the same kernel exists on the CPU."""
    weight, x = matrix(48, 64), matrix(6, 64, 1).view(2, 3, 64)
    for compute in (torch.float32, torch.bfloat16):
        linear = Int8Weights(weight, compute, "cpu")
        y = linear(x.to(compute)).float()
        assert (y - x @ weight.T).abs().max() < 0.03 * (x @ weight.T).abs().max()
        linear._kernel = False
        assert torch.allclose(linear(x.to(compute)).float(), y, atol=0.05 * float(y.abs().max()))


def test_int8_rows_do_not_depend_on_their_number() -> None:
    weight, x = matrix(48, 64), matrix(3, 64, 1)
    for kind in (Int8Dynamic, Int8OneDnn):
        linear = kind(weight)
        assert torch.equal(linear(x)[1], linear(x[1:2])[0])
        assert linear(matrix(20, 64)).shape == (20, 48)
        assert 48 * 64 < linear.bytes() < 1.3 * 48 * 64


def test_unknown_format_is_an_error() -> None:
    for name in ("int3", "int4"):
        with pytest.raises(InvalidInput, match=f"unknown dtype '{name}'"):
            precision(name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_weights_are_the_dense_ones(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(96, 64, generator=generator), torch.randn(7, 64, generator=generator).to(dtype)
    packed, dense = (make_linear(weight, Precision(dtype, kind), rows=2) for kind in ("packed", "dense"))
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(packed(x), dense(x), atol=tolerance, rtol=tolerance)
    assert packed(x[None, :1]).shape == (1, 1, 96)
    assert packed.bytes() == 96 * 64 * dtype.itemsize
    for count in range(1, 7):
        assert torch.equal(packed(x[:count]), packed(x)[:count])
