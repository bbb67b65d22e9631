"""In which number format the language model runs, and what stays behind when it does not fit.

Knows devices, bytes and shapes; loads nothing. The audio side is float32 on every device.
"""

from __future__ import annotations

import time

import torch
from torch.nn import functional as F

from backends.diffa.llada import LladaConfig
from backends.diffa.offload import MetaModel, Offload, plan
from backends.interface import OutOfMemory, Placement
from backends.transformer.linear import Precision, precision

_PROBE_ROWS = 64  # about what a step of a few answers feeds
_PROBE_WIDTH = 2048
_PROBE_GAIN = 1.2  # bfloat16 has to be this much faster to be taken on a processor


def choose_precision(placement: Placement, config: LladaConfig) -> Precision:
    """The format that the placement names; "auto" is bfloat16, but float16 or float32 where those are native or
    faster."""
    device = torch.device(placement.device)
    if placement.dtype != "auto":
        return precision(placement.dtype, device)
    if device.type == "cuda":
        return precision("bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16", device)
    if device.type != "cpu":
        return precision("bfloat16", device)
    too_big = (
        placement.memory_bytes is not None and weight_bytes(config, Precision(torch.float32)) > placement.memory_bytes
    )
    return precision("bfloat16" if too_big or _bfloat16_pays(config.stack.width) else "float32", device)


def choose_offload(
    placement: Placement, config: LladaConfig, kind: Precision, other_bytes: int, allowed: bool
) -> Offload | None:
    """Which layers stay in the processor's memory. Raises OutOfMemory where they may not, or where it would not
    help."""
    budget = placement.memory_bytes
    if budget is None:
        return None
    needed = weight_bytes(config, kind) + other_bytes
    if torch.device(placement.device).type == "cpu":
        if needed > budget:
            raise OutOfMemory(
                f"this model needs {needed} bytes in {name_of(kind)}, the budget of {placement.device} is {budget}"
            )
        return None
    offload = plan(config.stack, config.rows, kind, budget, other_bytes)
    if offload is not None and not allowed:
        raise OutOfMemory(
            f"this model needs {needed} bytes in {name_of(kind)} and working space, the budget of {placement.device} "
            f'is {budget}; set offload = "auto" or dtype = "int8"'
        )
    return offload


def weight_bytes(config: LladaConfig, kind: Precision) -> int:
    """Bytes of the language model's weights in a format."""
    on_meta = MetaModel(config.stack, config.rows, kind)
    return sum(parameter.numel() * parameter.element_size() for parameter in on_meta.parameters())


def name_of(kind: Precision) -> str:
    """The dtype name that is shown to users."""
    return kind.weights if kind.weights != "dense" else str(kind.compute).removeprefix("torch.")


def _bfloat16_pays(width: int) -> bool:
    """A short probe: whether this processor multiplies bfloat16 matrices of the model's width clearly faster."""
    width = min(width, _PROBE_WIDTH)
    return _product_seconds(width, torch.float32) > _PROBE_GAIN * _product_seconds(width, torch.bfloat16)


def _product_seconds(width: int, dtype: torch.dtype) -> float:
    x, weight = torch.ones(_PROBE_ROWS, width, dtype=dtype), torch.ones(width, width, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        F.linear(x, weight)
        best = min(best, time.perf_counter() - began)
    return best
