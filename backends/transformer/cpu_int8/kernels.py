"""The compiled loops (loops.py), if they can be used on this machine, and the picker that CSM's frames call.

They need numba, which comes with the `torch` extra (there is none for musl). Where it is missing or does not work, the
reason is logged once and everything runs as plain torch operators.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from backends.transformer.cpu_int8.loop_checks import wrong_loop
from backends.transformer.kernel_checks import failure, give_up
from backends.transformer.sampling import COLDEST


@cache
def kernels() -> ModuleType | None:
    """The compiled loops, or None where they are missing, do not compile or compute something wrong."""
    loaded: list[ModuleType] = []

    def attempt() -> str:
        loaded.append(import_module("backends.transformer.cpu_int8.loops"))
        name = wrong_loop(loaded[0])
        return f"{name} is wrong" if name else ""

    wrong = failure(attempt)
    if wrong:
        give_up("compiled loops", f"int8 on the CPU runs without them, which is slower ({wrong})")
        return None
    return loaded[0]


class Picker:
    """sampling.pick for the draws of one step, which share their settings; on the CPU."""

    def __init__(self, loops: ModuleType, noise: Tensor, temperature: float | Tensor, top_k: int | Tensor) -> None:
        """noise: Exp(1) float32 [rows, draws, n]; temperature and top_k: numbers, or tensors [rows]."""
        rows = noise.shape[0]
        self._loops, self._noise = loops, noise.contiguous().numpy()
        self._temperature = np.empty(rows, np.float32)
        self._temperature[:] = temperature
        sampled = self._temperature > 0
        self._temperature[sampled] = np.maximum(self._temperature[sampled], COLDEST)
        self._top_k = np.empty(rows, np.int64)
        self._top_k[:] = top_k
        self._space = np.empty(2 * noise.shape[2], np.float32)

    def __call__(self, logits: Tensor, draw: int) -> Tensor:
        """Ids int64 [rows], below n, from logits float32 [rows, n or more] with the noise of that draw."""
        out = np.empty(len(self._noise), np.int64)
        self._loops.pick(logits.numpy(), self._noise, draw, self._temperature, self._top_k, self._space, out)
        return torch.from_numpy(out)
