"""Kernels are believed only after their results were compared, and what is given up is told."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from backends.transformer import kernel_checks
from backends.transformer.cpu_kernels import FIXED_COLUMNS, OneDnnWeight
from backends.transformer.kernel_checks import FULL_LEVELS, NARROW_LEVELS, Int8Kernel, fallbacks, int8_kernel, packs
from backends.transformer.linear import Dense, Int8Dynamic, Int8OneDnn, Int8Weights, Precision, make_linear, precision

STEP = 2 / 255


@pytest.fixture(autouse=True)
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has tried nothing yet."""
    monkeypatch.setattr(kernel_checks, "_FALLBACKS", {})


class Exact:
    """FBGEMM as on a processor with VNNI."""

    def __init__(self, quantised: Tensor) -> None:
        self.weight = quantised.double()

    def __call__(self, workspace: Tensor) -> Tensor:
        levels = (workspace[:, :-FIXED_COLUMNS].double() / STEP).round()
        return (self.product(levels) * STEP).float()

    def product(self, levels: Tensor) -> Tensor:
        return levels @ self.weight.T


class Saturating(Exact):
    """As without: sums of two products stay within 16 bits. The activations are unsigned, with a zero point of 127."""

    def product(self, levels: Tensor) -> Tensor:
        pairs = ((levels + 127)[:, None] * self.weight).unflatten(-1, (-1, 2)).sum(-1).clamp(-(2**15), 2**15 - 1)
        return pairs.sum(-1) - 127 * self.weight.sum(1)


class Wrong(Exact):
    """Off by one in one sum."""

    def product(self, levels: Tensor) -> Tensor:
        found = super().product(levels)
        found[-1, 0] += found.abs().max() * 1e-3
        return found


class Missing:
    def __init__(self, *_: Tensor) -> None:
        raise AttributeError("'_OpNamespace' 'onednn' object has no attribute 'qlinear_prepack'")


def test_sums_that_are_exact_have_all_eight_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_checks, "FbgemmWeight", Exact)
    assert int8_kernel.__wrapped__() == Int8Kernel("fbgemm", FULL_LEVELS)
    assert fallbacks() == {}


def test_sums_that_saturate_get_weights_of_seven_bits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernel_checks, "FbgemmWeight", Saturating)
    with caplog.at_level(logging.WARNING):
        assert int8_kernel.__wrapped__() == Int8Kernel("fbgemm", NARROW_LEVELS)
    assert "saturate" in fallbacks()["fbgemm int8"]
    assert "saturate" in caplog.text


@pytest.mark.parametrize("broken", [Wrong, Missing])
def test_a_wrong_or_missing_kernel_gives_way_to_the_next(monkeypatch: pytest.MonkeyPatch, broken: type) -> None:
    monkeypatch.setattr(kernel_checks, "FbgemmWeight", broken)
    kernel = int8_kernel.__wrapped__()
    assert kernel is not None
    assert kernel.name == "onednn"
    assert ("wrong sums" if broken is Wrong else "AttributeError") in fallbacks()["fbgemm int8"]
    monkeypatch.setattr("backends.transformer.linear.int8_kernel", lambda: kernel)
    assert isinstance(make_linear(torch.ones(32, 32), precision("int8")), Int8OneDnn)


def test_without_any_kernel_int8_weights_are_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FbgemmWeight", "OneDnnWeight"):
        monkeypatch.setattr(kernel_checks, name, Missing)
    monkeypatch.setattr("backends.transformer.linear.int8_kernel", int8_kernel.__wrapped__)
    weight = torch.eye(32) * torch.arange(1.0, 33.0)[:, None]
    linear = make_linear(weight, precision("int8"))
    assert isinstance(linear, Int8Weights)
    assert torch.allclose(linear(torch.ones(1, 32)), torch.arange(1.0, 33.0), rtol=1e-5)
    assert set(fallbacks()) == {"fbgemm int8", "onednn int8", "int8 on the CPU"}


def test_what_this_machine_uses_is_right_at_its_levels() -> None:
    kernel = int8_kernel.__wrapped__()
    assert kernel is not None
    linear = make_linear(torch.ones(32, 32), precision("int8"))
    assert isinstance(linear, Int8Dynamic if kernel.name == "fbgemm" else Int8OneDnn)
    weight = torch.full((32, 32), kernel.levels, dtype=torch.int8)
    ones, offset = torch.ones(32), weight.sum(1).float() * -128
    sums = OneDnnWeight(weight, ones, offset)(torch.full((1, 32), 255, dtype=torch.uint8))
    if kernel.name == "onednn":
        assert (sums == 127 * kernel.levels * 32).all()


def float16_product(x: Tensor, packed: Tensor, bias: Tensor | None = None) -> Tensor:
    return (x.half().float() @ packed.half().float().T).to(x.dtype)


def refused(_weight: Tensor) -> Tensor:
    raise RuntimeError("bf16 path needs the cpu support avx_ne_convert\nand a stack of C++ frames")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_products_that_fail_or_are_wrong_are_not_used(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    name = f"packed {str(dtype).removeprefix('torch.')} weights"
    monkeypatch.setattr(kernel_checks, "pack_dense", refused)
    assert not packs.__wrapped__(dtype)
    assert fallbacks()[name].endswith("(RuntimeError: bf16 path needs the cpu support avx_ne_convert)")
    monkeypatch.setattr(kernel_checks, "pack_dense", lambda weight: weight)
    monkeypatch.setattr(kernel_checks, "packed_product", float16_product)
    assert not packs.__wrapped__(dtype)
    assert "wrong results" in fallbacks()[name]
    monkeypatch.setattr("backends.transformer.linear.packs", lambda _: False)
    assert isinstance(make_linear(torch.ones(32, 32), Precision(dtype, "packed")), Dense)


def test_a_right_packed_product_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_checks, "pack_dense", lambda weight: weight)
    monkeypatch.setattr(kernel_checks, "packed_product", lambda x, packed: torch.nn.functional.linear(x, packed))
    assert packs.__wrapped__(torch.float32)
    assert packs.__wrapped__(torch.bfloat16)
    assert not packs.__wrapped__(torch.float16)
    assert fallbacks() == {}


def test_products_with_int8_weights_are_compared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def off(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        return x @ weight.to(x.dtype).T * scale * 1.01

    check = kernel_checks.multiplies_int8_weights.__wrapped__
    monkeypatch.setattr(torch.ops.aten, "_weight_int8pack_mm", off)
    assert not check("cpu", torch.float32)
    assert "wrong results for 1 rows" in fallbacks()["int8 weights on cpu"]
