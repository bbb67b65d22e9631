"""Matrix products in the number formats that decode is made of, behind one call: y = linear(x).

Weights are [out, in] without bias. Kinds: dense in the compute type; int8 with dynamically quantised activations on the
CPU (four times the speed of bfloat16 there, with exact integer sums); dense in oneDNN's layout; int8 weights on CUDA.
Which of them this processor computes rightly is kernel_checks.py's to say. Knows nothing of what is multiplied.

A row's result never depends on the *values* of other rows. Whether it depends on their *number* is a property of the
kernel: never with int8 on the CPU (integer sums, one scale per row); with dense weights the kernel changes with the
number of rows, so `rows` pads small products to one fixed shape, which is free where the weights' bytes are the cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from backends.interface import InvalidInput
from backends.transformer.cpu_int8.kernels import kernels
from backends.transformer.cpu_kernels import (
    FIXED_COLUMNS,
    FbgemmWeight,
    OneDnnWeight,
    fbgemm_input,
    pack_dense,
    packed_product,
)
from backends.transformer.kernel_checks import FULL_LEVELS, NARROW_LEVELS, int8_kernel, multiplies_int8_weights, packs

_STEP_ROWS = 8  # rows of a decode step, at most
_PART_ROWS = 2048  # quantised at once
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Linear(Protocol):
    """y [..., out] = x [..., in] times the transposed weight, in x's dtype. For one thread at a time."""

    def __call__(self, x: Tensor, /) -> Tensor: ...

    def bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Precision:
    """compute: dtype of activations, norms and cache; weights: "dense", "packed" or "int8" for the big matrices.

    packed: dense, but on the CPU in the layout of oneDNN's kernels, which torch.compile cannot trace.
    """

    compute: torch.dtype
    weights: str = "dense"


def precision(name: str, device: torch.device | str = "cpu") -> Precision:
    """What a dtype name of a deployment means on a device. Raises InvalidInput for a name that does not exist."""
    if name in _DTYPES:
        return Precision(_DTYPES[name])
    if name == "int8":
        return Precision(torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16, name)
    raise InvalidInput(f"unknown dtype {name!r} (known: {', '.join((*_DTYPES, 'int8'))})", param="dtype")


def make_linear(weight: Tensor, precision: Precision, device: torch.device | str = "cpu", rows: int = 0) -> Linear:
    """A linear layer of weight [out, in] in the given precision; `rows`: pad smaller products to this many rows."""
    on_cpu = torch.device(device).type == "cpu"
    if precision.weights == "packed" and on_cpu and packs(precision.compute):
        return Packed(weight.to(precision.compute), rows)
    if precision.weights in ("dense", "packed") or min(weight.shape) < 16:
        return Dense(weight.to(device, precision.compute, copy=True), rows)
    kernel = int8_kernel() if on_cpu else None
    if kernel is None:
        return Int8Weights(weight, precision.compute, device)
    return (Int8Dynamic if kernel.name == "fbgemm" else Int8OneDnn)(weight, kernel.levels)


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


class Packed:
    """The weight in the blocked layout that oneDNN's kernels read; CPU.

    Against F.linear on an AVX-512 CPU, 8192 x 2048, one thread: 1 row 1.5 times as fast in float32 and 2 times in
    bfloat16, 4 rows 2.7 and 1.3 times, 60 rows 3.0 and 1.3 times. From 2 rows on a row's bits do not depend on how many
    others there are, so `rows` = 2 is enough to make that so for one row, too.
    """

    __slots__ = ("_packed", "_size", "rows")

    def __init__(self, weight: Tensor, rows: int = 0) -> None:
        self._packed = pack_dense(weight)
        self._size, self.rows = weight.numel() * weight.element_size(), rows

    def __call__(self, x: Tensor) -> Tensor:
        count = x.numel() // x.shape[-1]
        if count >= self.rows:
            return packed_product(x, self._packed)
        padded = F.pad(x.reshape(count, -1), (0, 0, 0, self.rows - count))
        return packed_product(padded, self._packed)[:count].view(*x.shape[:-1], -1)

    def bytes(self) -> int:
        return self._size


def quantised_rows(weight: Tensor, levels: int = FULL_LEVELS) -> tuple[Tensor, Tensor]:
    """Symmetric per-row quantisation: weight [out, in] -> int8 [out, in] and float32 scale [out]."""
    quantised = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scale = torch.empty(len(weight), device=weight.device)
    # By parts: at once, a head of 65,537 rows would take four times the memory of its bfloat16 file for a moment.
    for begin in range(0, len(weight), _PART_ROWS):
        part = slice(begin, begin + _PART_ROWS)
        values = weight[part].float()
        scale[part] = values.abs().amax(1).clamp_min_(1e-12).div_(levels)
        quantised[part] = (values / scale[part, None]).round_()
    return quantised, scale


class Int8Dynamic:
    """int8 weights (scale per output) times activations quantised as they come, in one call of FBGEMM; x86.

    FBGEMM quantises by the range of the whole batch. Here every row is first divided by its absmax, and four more
    columns (1, -1, 0, 0 with zero weights) fix that range at -1..1: each row has its own scale and its own integer
    sums, so it is independent of others. A call costs 3 us beside the 40 of oneDNN's, and a frame of CSM has 600 of
    them.
    """

    __slots__ = ("_columns", "_loops", "_product", "_scale", "_workspace", "scales")

    def __init__(self, weight: Tensor, levels: int = NARROW_LEVELS) -> None:
        """levels: see Int8Kernel; scales: the weight's, float32 [out]."""
        quantised, self._scale = quantised_rows(weight, levels)
        self.scales: NDArray[np.float32] = self._scale.numpy()
        self._loops = kernels()
        self._columns = weight.shape[1]
        self._product = FbgemmWeight(quantised)
        self._workspace: dict[int, Tensor] = {}  # by number of rows: the kernel's input

    def __call__(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self._columns)
        if x.dtype is not torch.float32:
            flat = flat.float()
        y = self._few(flat) if self._loops is not None and len(flat) <= _STEP_ROWS else self._many(flat)
        y = y.view(*x.shape[:-1], -1)
        return y if x.dtype is torch.float32 else y.to(x.dtype)

    def _few(self, x: Tensor) -> Tensor:
        """The product of a step's rows, with compiled loops around it that give the same bits as `_many`."""
        assert self._loops is not None  # noqa: S101 (narrows for the type checker)
        workspace = self._workspace.get(len(x))
        if workspace is None:
            workspace = self._workspace[len(x)] = self.workspace(len(x), self._columns)
        absmax = np.empty(len(x), np.float32)
        self._loops.divide(x.contiguous().numpy(), workspace.numpy(), absmax)
        y = self.accumulator(workspace)
        self._loops.finish(y.numpy(), self.scales, absmax)
        return y

    def _many(self, x: Tensor) -> Tensor:
        workspace = self.workspace(len(x), self._columns)
        absmax = x.abs().amax(-1, keepdim=True).clamp_min_(1e-12)
        workspace[:, :-FIXED_COLUMNS] = x / absmax
        return self.accumulator(workspace).mul_(self._scale).mul_(absmax)

    def accumulator(self, workspace: Tensor) -> Tensor:
        """The product [rows, out] of a workspace, not yet multiplied by the scales and the rows' absmax."""
        return self._product(workspace)

    @staticmethod
    def workspace(rows: int, columns: int) -> Tensor:
        """A buffer for rows divided by their absmax, [rows, columns + FIXED_COLUMNS], with the fixed columns set."""
        return fbgemm_input(rows, columns)

    def bytes(self) -> int:
        return self._product.bytes() + 4 * self._scale.numel()


class Int8OneDnn:
    """The same products by oneDNN, for processors and builds without FBGEMM.

    Activations are unsigned, shifted by 128, because oneDNN's signed route is a thousand times slower (measured); the
    shift is taken back in the bias, because a zero point costs another pass over the weights at batch 1.
    """

    __slots__ = ("_columns", "_product", "_size")

    def __init__(self, weight: Tensor, levels: int = NARROW_LEVELS) -> None:
        """levels: see Int8Kernel."""
        quantised, scale = quantised_rows(weight, levels)
        self._size = quantised.numel() + 4 * scale.numel()
        step = scale / 127
        self._product = OneDnnWeight(quantised, step, quantised.sum(1, dtype=torch.int64).float() * step * -128)
        self._columns = weight.shape[1]

    def __call__(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self._columns).float()
        absmax = flat.abs().amax(-1, keepdim=True).clamp_min_(1e-12)
        levels = (flat / absmax).mul_(127.0).add_(128.5).to(torch.uint8)  # the cast truncates: this rounds
        return self._product(levels).mul_(absmax).view(*x.shape[:-1], -1).to(x.dtype)

    def bytes(self) -> int:
        return self._size


class Int8Weights:
    """int8 weights (scale per output), activations in the compute type: for accelerators, and for CPUs without a right
    kernel."""

    __slots__ = ("_kernel", "_packed", "_scale")

    def __init__(self, weight: Tensor, compute: torch.dtype, device: torch.device | str) -> None:
        quantised, scale = quantised_rows(weight)
        self._packed, self._scale = quantised.to(device), scale.to(device, compute)
        self._kernel = multiplies_int8_weights(torch.device(device).type, compute)

    def __call__(self, x: Tensor) -> Tensor:
        if not self._kernel:
            return F.linear(x, self._packed.to(x.dtype)) * self._scale
        y: Tensor = torch.ops.aten._weight_int8pack_mm(x.reshape(-1, x.shape[-1]), self._packed, self._scale)
        return y.view(*x.shape[:-1], -1)

    def bytes(self) -> int:
        return self._packed.numel() + self._scale.numel() * self._scale.element_size()
