"""Whether the compiled loops (loops.py) compute the right thing on this machine: each is compared once with numpy in
float64.

That also compiles them, or loads them from their cache, so that no request waits for it. The arrays have the types that
a stack gives, since numba compiles by types, and sizes that leave a rest beside full vector registers.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from backends.transformer.cpu_int8.arrays import Floats, KVRows
from backends.transformer.cpu_kernels import FIXED_COLUMNS

_WIDTH, _ROWS = 19, 2
_EPS = np.float32(1e-5)


def wrong_loop(loops: ModuleType) -> str:
    """The name of the first loop with a wrong result, "" if all are right. Raises whatever a compiler throws."""
    checks: dict[str, Callable[[ModuleType], bool]] = {
        "add_norm": _norms,
        "gate": _gate,
        "attend": _attend,
        "divide": _divide,
        "finish": _finish,
        "pick": _pick,
    }
    return next((name for name, right in checks.items() if not right(loops)), "")


def _values(*shape: int, seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def _near(result: Floats, exact: NDArray[np.float64]) -> bool:
    return bool(np.allclose(result, exact, rtol=1e-4, atol=1e-5 * np.abs(exact).max()))


def _norms(loops: ModuleType) -> bool:
    x, accumulator, scale = _values(_ROWS, _WIDTH, seed=0), _values(_ROWS, _WIDTH, seed=1), _values(_WIDTH, seed=2)
    absmax, weight = np.array([0.5, 1e4], np.float32), _values(_WIDTH, seed=3)
    total = x.astype(np.float64) + accumulator.astype(np.float64) * scale * absmax[:, None]
    exact = total / np.sqrt((total**2).mean(1, keepdims=True) + _EPS) * weight
    out, workspace, new = np.zeros_like(x), np.zeros((_ROWS, _WIDTH + FIXED_COLUMNS), np.float32), absmax.copy()
    loops.add_norm_out(x.copy(), accumulator, scale, absmax, weight, _EPS, out)
    loops.add_norm(x, accumulator, scale, new, weight, _EPS, workspace)
    divided = workspace[:, :_WIDTH]
    return (
        _near(out, exact) and _near(divided * new[:, None], exact) and _near(x, total) and np.abs(divided).max() == 1.0
    )


def _gate(loops: ModuleType) -> bool:
    gates = np.array([[-1e30, -90.0, -3.0, -1e-3, 0.0, 1e-3, 5.0, 90.0, 1e4]], np.float32)
    hidden = gates.shape[1]
    accumulator, scale = np.concatenate([gates, _values(1, hidden, seed=4)], 1), np.full(2 * hidden, 0.5, np.float32)
    gated, ups = gates.astype(np.float64) / 2, accumulator[:, hidden:].astype(np.float64) / 2
    exact = gated / (1 + np.exp(np.minimum(-gated, 700.0))) * ups
    absmax, workspace = np.ones(1, np.float32), np.zeros((1, hidden + FIXED_COLUMNS), np.float32)
    loops.gate(accumulator, scale, absmax, workspace)
    return _near(workspace[:, :hidden] * absmax, exact)


def _attend(loops: ModuleType) -> bool:
    """One row at position 5 of six, two query heads to one key head of four numbers, rotated by given angles."""
    width, position, length = 4, 5, 6
    accumulator, scale = _values(1, 4 * width, seed=5), np.full(4 * width, 2.0, np.float32)
    angles = np.arange(length)[:, None] * np.array([0.7, 0.1])
    rotary = np.stack([np.cos(angles), np.sin(angles)], -1).reshape(length, width).astype(np.float32)
    keys, values = _values(1, 1, length, width, seed=6), _values(1, 1, length, width, seed=7)
    heads = accumulator.astype(np.float64).reshape(4, width) * 2.0
    rotated = (heads.view(np.complex128) * np.exp(1j * angles[position])).view(np.float64)
    all_keys, all_values = keys[0, 0].astype(np.float64), values[0, 0].astype(np.float64)
    all_keys[position], all_values[position] = rotated[2], heads[3]
    weights = np.exp(rotated[:2] @ all_keys.T / np.sqrt(width))
    exact = (weights / weights.sum(1, keepdims=True) @ all_values).reshape(1, -1)
    absmax, workspace = np.ones(1, np.float32), np.zeros((1, 2 * width + FIXED_COLUMNS), np.float32)
    cache = KVRows(keys, values, np.zeros(1, np.int64), np.full(1, position, np.int64))
    loops.attend(accumulator, scale, absmax, rotary, cache, np.empty((2, length), np.float32), workspace)
    result = workspace[:, :-FIXED_COLUMNS] * absmax
    return _near(result, exact) and _near(keys[0, 0], all_keys) and _near(values[0, 0], all_values)


def _divide(loops: ModuleType) -> bool:
    x = _values(_ROWS, _WIDTH, seed=8)
    x[1] = 0.0
    absmax, workspace = np.empty(_ROWS, np.float32), np.zeros((_ROWS, _WIDTH + FIXED_COLUMNS), np.float32)
    loops.divide(x, workspace, absmax)
    exact = np.maximum(np.abs(x).max(1), np.float32(1e-12))
    return bool((absmax == exact).all() and (workspace[:, :_WIDTH] == x / exact[:, None]).all())


def _finish(loops: ModuleType) -> bool:
    accumulator, scale = _values(_ROWS, _WIDTH, seed=9), _values(_WIDTH, seed=10)
    absmax = np.array([3.0, 1e-12], np.float32)
    exact = accumulator * scale * absmax[:, None]
    loops.finish(accumulator, scale, absmax)
    return bool((accumulator == exact).all())


def _pick(loops: ModuleType) -> bool:
    """A greedy row, and one that draws from its five largest."""
    logits = _values(2, _WIDTH, seed=11)
    noise = np.random.default_rng(12).exponential(size=(2, 1, _WIDTH)).astype(np.float32)
    temperature, top_k, out = np.array([0.0, 2.0], np.float32), np.array([0, 5], np.int64), np.empty(2, np.int64)
    loops.pick(logits, noise, 0, temperature, top_k, np.empty(2 * _WIDTH, np.float32), out)
    largest = np.argsort(logits[1])[-5:]
    drawn = largest[np.argmax(np.exp(logits[1, largest].astype(np.float64) / 2.0) / noise[1, 0, largest])]
    return bool(out[0] == logits[0].argmax() and out[1] == drawn)
