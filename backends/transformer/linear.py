"""Matrix products in the number formats that decode is made of, behind one call: y = linear(x).

Weights are [out, in] without bias. Kinds: dense in the compute type; int8 with dynamically quantised activations on the
CPU (four times the speed of bfloat16 there, with exact integer sums); dense in oneDNN's layout; int8 weights on CUDA;
int4 weights, as an experiment. Knows nothing of what is multiplied.

A row's result never depends on the *values* of other rows. Whether it depends on their *number* is a property of the
kernel: never with int8 on the CPU (integer sums, one scale per row); with dense weights the kernel changes with the
number of rows, so `rows` pads small products to one fixed shape, which is free where the weights' bytes are the cost.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from backends.interface import InvalidInput
from backends.transformer.kernels import kernels

_STEP_ROWS = 8  # rows of a decode step, at most
_PART_ROWS = 2048  # quantised at once
_INT4_GROUP = 64  # input columns that share one scale
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Linear(Protocol):
    """y [..., out] = x [..., in] times the transposed weight, in x's dtype. For one thread at a time."""

    def __call__(self, x: Tensor, /) -> Tensor: ...

    def bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Precision:
    """compute: dtype of activations, norms and cache; weights: "dense", "packed", "int8" or "int4" for the big matrices.

    packed: dense, but on the CPU in the layout of oneDNN's kernels, which torch.compile cannot trace.
    """

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
    if precision.weights == "int4" and weight.shape[1] % _INT4_GROUP == 0 and weight.shape[0] % 16 == 0:
        return Int4(weight, precision.compute, device)
    if precision.weights == "packed" and torch.device(device).type == "cpu" and _packs(precision.compute):
        return Packed(weight.to(precision.compute), rows)
    if precision.weights in ("dense", "packed") or min(weight.shape) < 16:
        return Dense(weight.to(device, precision.compute, copy=True), rows)
    if torch.device(device).type != "cpu":
        return Int8Weights(weight, precision.compute, device)
    return Int8Dynamic(weight) if _fbgemm() else Int8OneDnn(weight)


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
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        self._size, self.rows = weight.numel() * weight.element_size(), rows

    def __call__(self, x: Tensor) -> Tensor:
        count = x.numel() // x.shape[-1]
        if count >= self.rows:
            return self._product(x)
        padded = F.pad(x.reshape(count, -1), (0, 0, 0, self.rows - count))
        return self._product(padded)[:count].view(*x.shape[:-1], -1)

    def _product(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")
        return y

    def bytes(self) -> int:
        return self._size


@cache
def _packs(dtype: torch.dtype) -> bool:
    """Whether this build and processor can pack weights of that type."""
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not available or dtype not in (torch.float32, torch.bfloat16) or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    try:
        Packed(torch.zeros(16, 16, dtype=dtype))(torch.zeros(1, 16, dtype=dtype))
    except (RuntimeError, NotImplementedError):
        return False
    return True


def quantised_rows(weight: Tensor, levels: int = 127) -> tuple[Tensor, Tensor]:
    """Symmetric per-row quantisation: weight [out, in] -> int8 [out, in] and float32 scale [out]."""
    quantised = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scale = torch.empty(len(weight), device=weight.device)
    # By parts: whole, a head of 65,537 rows would take four times the room of its bfloat16 file for a moment.
    for begin in range(0, len(weight), _PART_ROWS):
        part = slice(begin, begin + _PART_ROWS)
        values = weight[part].float()
        scale[part] = values.abs().amax(1).clamp_min_(1e-12).div_(levels)
        quantised[part] = (values / scale[part, None]).round_()
    return quantised, scale


def weight_levels() -> int:
    """Largest level of an int8 weight: without VNNI, x86 adds pairs of 8-bit products in 16 bits, which must not overflow."""
    return 127 if torch.cpu._is_vnni_supported() else 63


class Int8Dynamic:
    """int8 weights (scale per output) times activations quantised as they come, in one call of FBGEMM; x86.

    FBGEMM quantises by the range of the whole batch. Here every row is first divided by its own peak, and four more
    columns (1, -1, 0, 0 with zero weights) fix that range at -1..1: each row has its own scale and its own integer sums,
    so it is independent of others. A call costs 3 us beside the 40 of oneDNN's, and a frame of CSM has 600 of them.
    """

    __slots__ = ("_bias", "_columns", "_loops", "_offsets", "_packed", "_quantised", "_room", "_scale", "scales")

    def __init__(self, weight: Tensor) -> None:
        """scales: the weight's, float32 [out]."""
        quantised, self._scale = quantised_rows(weight, weight_levels())
        self.scales: NDArray[np.float32] = self._scale.numpy()
        self._loops = kernels()
        self._columns = weight.shape[1]
        self._quantised = F.pad(quantised, (0, 4))
        self._offsets = self._quantised.sum(1, dtype=torch.int32)
        self._packed = torch.fbgemm_pack_quantized_matrix(self._quantised)
        # The kernel reads the packed copy and only the shape of the other.
        self._quantised = torch.empty(1, dtype=torch.int8).expand(self._quantised.shape)
        self._bias = torch.zeros(len(self._scale))
        self._room: dict[int, Tensor] = {}  # by number of rows: the kernel's input

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
        room = self._room.get(len(x))
        if room is None:
            room = self._room[len(x)] = self.room(len(x), self._columns)
        peaks = np.empty(len(x), np.float32)
        self._loops.divide(x.contiguous().numpy(), room.numpy(), peaks)
        y = self.raw(room)
        self._loops.finish(y.numpy(), self.scales, peaks)
        return y

    def _many(self, x: Tensor) -> Tensor:
        room = self.room(len(x), self._columns)
        peak = x.abs().amax(-1, keepdim=True).clamp_min_(1e-12)
        room[:, :-4] = x / peak
        return self.raw(room).mul_(self._scale).mul_(peak)

    def raw(self, room: Tensor) -> Tensor:
        """The product [rows, out] of an input room; it still wants the scales and the rows' peaks."""
        y: Tensor = torch.fbgemm_linear_int8_weight_fp32_activation(
            room, self._quantised, self._packed, self._offsets, 1.0, 0, self._bias
        )
        return y

    @staticmethod
    def room(rows: int, columns: int) -> Tensor:
        """Room for rows divided by their peaks, [rows, columns + 4], with the fixed columns."""
        room = torch.zeros(rows, columns + 4)
        room[:, -4], room[:, -3] = 1.0, -1.0
        return room

    def bytes(self) -> int:
        return self._quantised.numel() + 8 * self._scale.numel()


class Int8OneDnn:
    """The same products by oneDNN, for processors and builds without FBGEMM.

    Activations are unsigned, shifted by 128, because oneDNN's signed route is a thousand times slower (measured); the
    shift is taken back in the bias, because a zero point costs another pass over the weights at batch 1.
    """

    __slots__ = ("_bias", "_columns", "_packed", "_scale", "_size", "_zero")

    def __init__(self, weight: Tensor) -> None:
        quantised, scale = quantised_rows(weight, weight_levels())
        self._size = quantised.numel() + 4 * scale.numel()
        self._packed = torch.ops.onednn.qlinear_prepack(quantised, None)
        self._scale = scale / 127
        self._bias = quantised.sum(1, dtype=torch.int64).float() * self._scale * -128
        self._zero = torch.zeros(scale.numel(), dtype=torch.int64)
        self._columns = weight.shape[1]

    def __call__(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self._columns).float()
        peak = flat.abs().amax(-1, keepdim=True).clamp_min_(1e-12)
        levels = (flat / peak).mul_(127.0).add_(128.5).to(torch.uint8)  # the cast truncates: this rounds
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            levels, 1.0, 0, self._packed, self._scale, self._zero, self._bias, 1.0, 0, torch.float32, "none", [], ""
        )
        return y.mul_(peak).view(*x.shape[:-1], -1).to(x.dtype)

    def bytes(self) -> int:
        return self._size


@cache
def _fbgemm() -> bool:
    """Whether FBGEMM's plain-tensor kernels work here. torch announces, once, that it will drop them one day."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="fbgemm_", category=UserWarning)
            Int8Dynamic(torch.eye(16))(torch.ones(1, 16))
    except (RuntimeError, AttributeError):
        return False
    return True


class Int8Weights:
    """int8 weights (scale per output), activations in the compute type; for CUDA and other accelerators."""

    __slots__ = ("_kernel", "_packed", "_scale")

    def __init__(self, weight: Tensor, compute: torch.dtype, device: torch.device | str) -> None:
        quantised, scale = quantised_rows(weight)
        self._packed, self._scale = quantised.to(device), scale.to(device, compute)
        self._kernel = _multiplies_int8(torch.device(device).type, compute)

    def __call__(self, x: Tensor) -> Tensor:
        if not self._kernel:
            return F.linear(x, self._packed.to(x.dtype)) * self._scale
        y: Tensor = torch.ops.aten._weight_int8pack_mm(x.reshape(-1, x.shape[-1]), self._packed, self._scale)
        return y.view(*x.shape[:-1], -1)

    def bytes(self) -> int:
        return self._packed.numel() + self._scale.numel() * self._scale.element_size()


@cache
def _multiplies_int8(device: str, compute: torch.dtype) -> bool:
    """Whether torch has a kernel there that reads int8 weights; without one they are widened at every product."""
    weight = torch.zeros(64, 64, dtype=torch.int8, device=device)
    try:
        torch.ops.aten._weight_int8pack_mm(weight[:1].to(compute), weight, weight[0].to(compute))
    except (RuntimeError, NotImplementedError):
        return False
    return True


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
