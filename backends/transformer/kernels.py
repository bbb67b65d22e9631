"""Whether the compiled loops (loops.py) can be used here, and the ways into them that are not a stack's.

They need numba, which comes with the `torch` extra. Where it is missing or does not work, the reason is logged once and
everything runs as plain torch operators.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib import import_module
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from backends.transformer.sampling import COLDEST

log = logging.getLogger(__name__)


@cache
def kernels() -> ModuleType | None:
    """The compiled loops, or None."""
    try:
        found = import_module("backends.transformer.loops")
        _try(found)
    except Exception as error:  # whatever an import or a compiler throws
        log.warning("int8 on the CPU runs without compiled loops, which is slower (%s: %s)", type(error).__name__, error)
        return None
    return found


def _try(found: ModuleType) -> None:
    """Compile every loop, or load it from its cache, so that no request waits for that."""
    one, room, wide = np.ones((1, 2), np.float32), np.zeros((1, 6), np.float32), np.ones(16, np.float32)
    peaks, at, eps = np.ones(1, np.float32), np.zeros(1, np.int64), np.float32(1e-5)
    stored, qkv = np.zeros((1, 1, 1, 2), np.float32), np.ones((1, 6), np.float32)
    found.add_norm(one.copy(), one, wide, peaks, wide, eps, room)
    found.add_norm_out(one.copy(), one, wide, peaks, wide, eps, one.copy())
    found.gate(np.ones((1, 4), np.float32), wide, peaks, room)
    found.attend(qkv, wide, peaks, one, stored, stored.copy(), at, at, one.copy(), room)
    found.divide(one, room, peaks)
    found.finish(one.copy(), wide, peaks)
    found.pick(one, np.ones((1, 1, 2), np.float32), 0, peaks, at, wide, at.copy())


class Picker:
    """sampling.pick for the draws of one step, which share their settings; on the CPU."""

    def __init__(self, loops: ModuleType, noise: Tensor, temperature: float | Tensor, top_k: int | Tensor) -> None:
        """noise: Exp(1) float32 [rows, draws, n]; temperature and top_k: numbers, or tensors [rows]."""
        rows = noise.shape[0]
        self._loops, self._noise = loops, noise.contiguous().numpy()
        self._temperature = np.empty(rows, np.float32)
        self._temperature[:] = temperature
        warm = self._temperature > 0
        self._temperature[warm] = np.maximum(self._temperature[warm], COLDEST)
        self._top_k = np.empty(rows, np.int64)
        self._top_k[:] = top_k
        self._space = np.empty(2 * noise.shape[2], np.float32)

    def __call__(self, logits: Tensor, draw: int) -> Tensor:
        """Ids int64 [rows], below n, from logits float32 [rows, n or more] with the noise of that draw."""
        out = np.empty(len(self._noise), np.int64)
        self._loops.pick(logits.numpy(), self._noise, draw, self._temperature, self._top_k, self._space, out)
        return torch.from_numpy(out)
