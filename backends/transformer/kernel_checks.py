"""Checks that the kernels chosen for speed compute the right thing on this processor, once per process.

Every problem is small, made of whole numbers, and has a known exact result; some of its values are the largest there
are, so that sums which saturate are seen. A kernel that is missing, fails or is wrong is replaced by a plain one, and
the reason is logged and kept for those who show it (`fallbacks`). Names of processors and lists of their features are
not asked: builds and emulators know other ones.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from backends.transformer.cpu_kernels import (
    FIXED_COLUMNS,
    FbgemmWeight,
    OneDnnWeight,
    fbgemm_input,
    pack_dense,
    packed_product,
)

log = logging.getLogger(__name__)

FULL_LEVELS = 127
# Pairs of unsigned times signed 8-bit products may be summed in 16 bits (x86 without VNNI): 2 * 255 * 64 < 2^15.
NARROW_LEVELS = 64
_ROWS = (1, 3, 20)  # kernels differ by the number of rows
_OUT, _IN = 48, 70  # no multiple of a vector register's columns
_STEP = 2 / 255  # of FBGEMM's activations in -1..1
_FALLBACKS: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Int8Kernel:
    """A kernel of int8 products on the CPU, and the largest weight level with which its sums are exact."""

    name: str
    levels: int


def fallbacks() -> dict[str, str]:
    """Kernel -> why it is not used as it could be, of all that was tried in this process so far."""
    return dict(sorted(_FALLBACKS.items()))


def give_up(kernel: str, reason: str) -> None:
    """Log and keep why a kernel is not used."""
    _FALLBACKS[kernel] = reason
    log.warning("%s: %s", kernel, reason)


def failure(attempt: Callable[[], str]) -> str:
    """What is wrong with a kernel, "" if nothing: what `attempt` finds, or whatever it throws."""
    try:
        return attempt()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".removesuffix(": ")


# --- dense products --------------------------------------------------------------------------------------------------


@cache
def packs(dtype: torch.dtype) -> bool:
    """Whether this build and processor multiply weights of that type in oneDNN's layout, and rightly."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    wrong = failure(lambda: _wrong_packed(dtype))
    if wrong:
        give_up(f"packed {_name(dtype)} weights", f"plain products are used, which are slower ({wrong})")
    return not wrong


def _wrong_packed(dtype: torch.dtype) -> str:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "this build has no oneDNN"
    weight, x = _whole_numbers((_OUT, _IN), 8, 0), _whole_numbers((max(_ROWS), _IN), 8, 1)
    x[-1] *= 2**60  # bfloat16 reaches as far as float32: a kernel that computes in float16 does not
    packed = pack_dense(weight.to(dtype))
    for rows in _ROWS:
        part = x[-rows:]
        if not _near(packed_product(part.to(dtype), packed).double(), part @ weight.T, dtype):
            return f"wrong results for {rows} rows"
    return ""


# --- int8 products ---------------------------------------------------------------------------------------------------


@cache
def int8_kernel() -> Int8Kernel | None:
    """The first right kernel of those in order of speed, FBGEMM's and oneDNN's; None where there is none."""
    for name, sums in (("fbgemm", _fbgemm_sums), ("onednn", _onednn_sums)):
        for levels in (FULL_LEVELS, NARROW_LEVELS):
            wrong = failure(lambda sums=sums, levels=levels: _wrong_sums(sums, levels))  # type: ignore[misc]
            if not wrong:
                if levels < FULL_LEVELS:
                    give_up(
                        f"{name} int8", "weights have 7 bits, because sums of 8-bit ones saturate on this processor"
                    )
                return Int8Kernel(name, levels)
        give_up(f"{name} int8", f"it is not used ({wrong})")
    give_up(
        "int8 on the CPU",
        "int8 weights are widened at every product, which is slower, because no int8 kernel is right here",
    )
    return None


def _wrong_sums(sums: Callable[[Tensor, Tensor], Tensor], levels: int) -> str:
    """What is wrong with integer sums of activations in -127..127 and weights up to `levels`, both also at their
    largest."""
    for weight, x in _int8_problems(levels):
        exact = x.double() @ weight.double().T
        for rows in _ROWS:
            if not _near(sums(weight, x[:rows]).double(), exact[:rows], torch.float32):
                return f"wrong sums for {rows} rows of weights up to {levels}"
    return ""


def _int8_problems(levels: int) -> list[tuple[Tensor, Tensor]]:
    """Weights int8 [out, in] and activations int32 [rows, in]: drawn, all largest, and largest of opposite signs."""
    weight, x = _whole_numbers((_OUT, _IN), levels, 2), _whole_numbers((max(_ROWS), _IN), 127, 3)
    largest, loud = torch.full((_OUT, _IN), levels), torch.full((max(_ROWS), _IN), 127)
    problems = [
        (weight, x),
        (largest, loud),
        (-largest, loud),
        (largest, -loud),
        (weight.sign() * levels, x.sign() * 127),
    ]
    return [(weight.to(torch.int8), x.to(torch.int32)) for weight, x in problems]


def _fbgemm_sums(weight: Tensor, x: Tensor) -> Tensor:
    workspace = fbgemm_input(len(x), x.shape[1])
    workspace[:, :-FIXED_COLUMNS] = x * _STEP
    return FbgemmWeight(weight)(workspace) / _STEP


def _onednn_sums(weight: Tensor, x: Tensor) -> Tensor:
    offset = weight.sum(1, dtype=torch.int64).float() * -128
    return OneDnnWeight(weight, torch.ones(len(weight)), offset)((x + 128).to(torch.uint8))


@cache
def multiplies_int8_weights(device: str, compute: torch.dtype) -> bool:
    """Whether torch has a right kernel there that reads int8 weights; without one they are widened at every product."""
    wrong = failure(lambda: _wrong_int8_weights(device, compute))
    if wrong:
        give_up(f"int8 weights on {device}", f"they are widened to {_name(compute)} at every product ({wrong})")
    return not wrong


def _wrong_int8_weights(device: str, compute: torch.dtype) -> str:
    # Of a size that the accelerators' kernels take; float16 reaches to 65,504.
    weight, x = _whole_numbers((64, 64), FULL_LEVELS, 4), _whole_numbers((20, 64), 2, 5)
    weight[0], x[0] = FULL_LEVELS, 2
    quantised, scale = weight.to(device, torch.int8), torch.ones(64, dtype=compute, device=device)
    for rows in _ROWS:
        y = torch.ops.aten._weight_int8pack_mm(x[:rows].to(device, compute), quantised, scale)
        if not _near(y.cpu().double(), x[:rows] @ weight.T, compute):
            return f"wrong results for {rows} rows"
    return ""


# --- problems and results --------------------------------------------------------------------------------------------


def _whole_numbers(shape: tuple[int, int], most: int, seed: int) -> Tensor:
    """Whole numbers in -most..most, float64 (exact in every type and every sum here), the same on every machine."""
    drawn = torch.randint(-most, most + 1, shape, generator=torch.Generator().manual_seed(seed))
    return drawn.double()


def _near(result: Tensor, exact: Tensor, dtype: torch.dtype) -> bool:
    """Equal but for a few roundings to `dtype`, relative to the largest value of each row."""
    allowed = 4 * torch.finfo(dtype).eps * exact.abs().amax(-1, keepdim=True)
    return bool(((result - exact).abs() <= allowed).all())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
