"""Matrix products in the number formats that decode is made of, behind one call: y = linear(x).

Weights are [out, in] without bias. Kinds: dense in the compute type; int8 with dynamically quantised activations on the
CPU (oneDNN, 4.3 times the speed of bfloat16 there, and exact integer sums); int8 weights on CUDA; int4 weights, as an
experiment. Knows nothing of what is multiplied.

A row's result never depends on the *values* of other rows. Whether it depends on their *number* is a property of the
kernel: never with int8 on the CPU (integer sums, one scale per row); with dense weights the kernel changes with the
number of rows, so `rows` pads small products to one fixed shape, which is free where the weights' bytes are the cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from backends.interface import InvalidInput

_INT4_GROUP = 64  # input columns that share one scale
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Linear(Protocol):
    """y [..., out] = x [..., in] times the transposed weight, in x's dtype."""

    def __call__(self, x: Tensor, /) -> Tensor: ...

    def bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Precision:
    """compute: dtype of activations, norms and cache; weights: "dense", "int8" or "int4" for the big matrices."""

    compute: torch.dtype
    weights: str = "dense"


def precision(name: str, device: torch.device | str = "cpu") -> Precision:
    """What a dtype name of a deployment means on a device. Raises InvalidInput for a name that does not exist."""
    if name in _DTYPES:
        return Precision(_DTYPES[name])
    if name in ("int8", "int4"):
        compute = torch.float32 if torch.device(device).type == "cpu" and name == "int8" else torch.bfloat16
        return Precision(compute, name)
    raise InvalidInput(f"unknown dtype {name!r} (known: {', '.join((*_DTYPES, 'int8', 'int4'))})", param="dtype")


def make_linear(weight: Tensor, precision: Precision, device: torch.device | str = "cpu", rows: int = 0) -> Linear:
    """A linear layer of weight [out, in] in the given precision; `rows`: pad smaller products to this many rows."""
    if precision.weights == "int4" and weight.shape[1] % _INT4_GROUP == 0:
        return Int4(weight, precision.compute, device)
    if precision.weights == "dense" or min(weight.shape) < 16:
        return Dense(weight.to(device, precision.compute, copy=True), rows)
    return Int8Dynamic(weight) if torch.device(device).type == "cpu" else Int8Weights(weight, precision.compute, device)


class Dense:
    """The weight as it is, in the compute type."""

    __slots__ = ("rows", "weight")

    def __init__(self, weight: Tensor, rows: int = 0) -> None:
        self.weight, self.rows = weight.contiguous(), rows

    def __call__(self, x: Tensor) -> Tensor:
        if not self.rows:
            return F.linear(x, self.weight)
        flat = x.reshape(-1, x.shape[-1])
        missing = self.rows - flat.shape[0]
        if missing <= 0:
            return F.linear(x, self.weight)
        return F.linear(F.pad(flat, (0, 0, 0, missing)), self.weight)[:-missing].view(*x.shape[:-1], -1)

    def bytes(self) -> int:
        return self.weight.numel() * self.weight.element_size()


def quantised_rows(weight: Tensor, levels: int = 127) -> tuple[Tensor, Tensor]:
    """Symmetric per-row quantisation: weight [out, in] -> int8 [out, in] and float32 scale [out]."""
    weight = weight.float()
    scale = weight.abs().amax(1).clamp_min(1e-12) / levels
    return (weight / scale[:, None]).round_().to(torch.int8), scale


class Int8Dynamic:
    """int8 weights (scale per output) times activations quantised per row as they come; CPU, oneDNN.

    Activations are unsigned with zero point 128: x86's 8-bit product wants one unsigned side, and oneDNN's signed route
    is a thousand times slower (measured). Each row has its own scale, so the integer sums make it independent of others.
    """

    __slots__ = ("_columns", "_packed", "_scale", "_size", "_zero")

    def __init__(self, weight: Tensor) -> None:
        quantised, scale = quantised_rows(weight)
        self._size = quantised.numel() + 4 * scale.numel()
        self._packed = torch.ops.onednn.qlinear_prepack(quantised, None)
        self._scale = scale / 127  # the row scale is applied as the row's maximum, without dividing it by 127
        self._zero = torch.zeros(scale.numel(), dtype=torch.int64)
        self._columns = weight.shape[1]

    def __call__(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self._columns).float()
        peak = flat.abs().amax(-1, keepdim=True).clamp_min_(1e-12)
        levels = (flat * (127.0 / peak)).add_(128.5).to(torch.uint8)  # the cast truncates: this rounds
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            levels, 1.0, 128, self._packed, self._scale, self._zero, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return y.mul_(peak).view(*x.shape[:-1], -1).to(x.dtype)

    def bytes(self) -> int:
        return self._size


class Int8Weights:
    """int8 weights (scale per output), activations in the compute type; for CUDA and other accelerators."""

    __slots__ = ("_packed", "_scale")

    def __init__(self, weight: Tensor, compute: torch.dtype, device: torch.device | str) -> None:
        quantised, scale = quantised_rows(weight)
        self._packed, self._scale = quantised.to(device), scale.to(device, compute)

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self._packed.to(x.dtype)) * self._scale

    def bytes(self) -> int:
        return self._packed.numel() + self._scale.numel() * self._scale.element_size()


class Int4:
    """int4 weights in groups of 64 columns with scale and offset; an experiment, measured but not a default."""

    __slots__ = ("_cpu", "_packed", "_scales")

    def __init__(self, weight: Tensor, compute: torch.dtype, device: torch.device | str) -> None:
        grouped = weight.float().reshape(weight.shape[0], -1, _INT4_GROUP)
        low, high = grouped.amin(-1), grouped.amax(-1)
        scale = ((high - low) / 15).clamp_min(1e-8)
        levels = ((grouped - low[..., None]) / scale[..., None]).round_().clamp_(0, 15).to(torch.int32).flatten(1)
        # The kernels compute (level - 8) * scale + offset.
        self._scales = torch.stack([scale, low + 8 * scale], -1).transpose(0, 1).contiguous().to(device, compute)
        self._cpu = torch.device(device).type == "cpu"
        self._packed = _pack_int4(levels, device, self._cpu)

    def __call__(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).to(self._scales.dtype)
        multiply = torch.ops.aten._weight_int4pack_mm_for_cpu if self._cpu else torch.ops.aten._weight_int4pack_mm
        y: Tensor = multiply(flat, self._packed, _INT4_GROUP, self._scales)
        return y.view(*x.shape[:-1], -1).to(x.dtype)

    def bytes(self) -> int:
        return self._packed.numel() * self._packed.element_size() + self._scales.numel() * self._scales.element_size()


def _pack_int4(levels: Tensor, device: torch.device | str, cpu: bool) -> Tensor:
    packed: Tensor
    if cpu:
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 2)
    else:
        pairs = (levels[:, ::2] << 4 | levels[:, 1::2]).to(torch.uint8)
        packed = torch.ops.aten._convert_weight_to_int4pack(pairs.to(device), 2)
    return packed
