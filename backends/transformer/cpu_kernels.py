"""The private torch operators behind products on a CPU: oneDNN's packed weights, and two kernels of int8 products.

None of them is documented, nor what each needs of the processor and of the build. So nothing relies on their results
before kernel_checks.py has compared them on the machine at hand.
"""

from __future__ import annotations

import warnings
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

FIXED_COLUMNS = 4  # that fix the range of FBGEMM's activations: 1, -1, 0, 0


def pack_dense(weight: Tensor) -> Tensor:
    """A weight [out, in] in the blocked layout of oneDNN's kernels. Raises RuntimeError where that cannot be."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    return packed


def packed_product(x: Tensor, packed: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., in] times the transposed weight of `pack_dense`, plus the bias [out]."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return y


class FbgemmWeight:
    """int8 weights [out, in] as FBGEMM's kernel reads them, with the columns that fix the activations' range at
    -1..1."""

    __slots__ = ("_bias", "_offsets", "_packed", "_shaped")

    def __init__(self, quantised: Tensor) -> None:
        _call_fbgemm_once()
        padded = F.pad(quantised, (0, FIXED_COLUMNS))
        self._offsets = padded.sum(1, dtype=torch.int32)
        self._packed = torch.fbgemm_pack_quantized_matrix(padded)
        # The kernel reads the packed copy and only the shape of the other.
        self._shaped = torch.empty(1, dtype=torch.int8).expand(padded.shape)
        self._bias = torch.zeros(len(quantised))

    def __call__(self, workspace: Tensor) -> Tensor:
        """float32 [rows, out] of `fbgemm_input` float32 [rows, in + 4], which is quantised in steps of 2 / 255."""
        y: Tensor = torch.fbgemm_linear_int8_weight_fp32_activation(
            workspace, self._shaped, self._packed, self._offsets, 1.0, 0, self._bias
        )
        return y

    def bytes(self) -> int:
        return self._shaped.numel() + 4 * len(self._offsets)


@cache
def _call_fbgemm_once() -> None:
    """Call each of FBGEMM's operators: the first time, torch warns that it will drop them one day."""
    weight, offsets = torch.zeros(1, 1, dtype=torch.int8), torch.zeros(1, dtype=torch.int32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fbgemm_", category=UserWarning)
        packed = torch.fbgemm_pack_quantized_matrix(weight)
        torch.fbgemm_linear_int8_weight_fp32_activation(
            torch.zeros(1, 1), weight, packed, offsets, 1.0, 0, torch.zeros(1)
        )


def fbgemm_input(rows: int, columns: int) -> Tensor:
    """An input for rows in -1..1, [rows, columns + 4]: zeros, and the columns that fix the range."""
    workspace = torch.zeros(rows, columns + FIXED_COLUMNS)
    workspace[:, -FIXED_COLUMNS], workspace[:, 1 - FIXED_COLUMNS] = 1.0, -1.0
    return workspace


class OneDnnWeight:
    """int8 weights [out, in] as oneDNN's kernel for unsigned activations reads them, with a factor and an offset per
    output."""

    __slots__ = ("_factor", "_offset", "_packed", "_zero")

    def __init__(self, quantised: Tensor, factor: Tensor, offset: Tensor) -> None:
        self._packed = torch.ops.onednn.qlinear_prepack(quantised, None)
        self._factor, self._offset = factor, offset
        self._zero = torch.zeros(len(factor), dtype=torch.int64)

    def __call__(self, levels: Tensor) -> Tensor:
        """float32 [rows, out] = (levels uint8 [rows, in] times the transposed weight) * factor + offset."""
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            levels, 1.0, 0, self._packed, self._factor, self._zero, self._offset, 1.0, 0, torch.float32, "none", [], ""
        )
        return y
