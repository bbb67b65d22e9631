"""The arithmetic between two int8 products of a decode step, compiled by numba; imported through kernels.py only.

A step of one row is made of products that run at the speed of memory and of some fifty tiny operators per layer between
them, each of which costs more to call than to compute. Here they are four loops: before the norms, around attention, in
the SwiGLU, and around a head. Everything is float32 on numpy arrays, C-contiguous, one row per sequence.

*absmax* is the largest magnitude of a product's input row. A *workspace* [rows, columns + FIXED_COLUMNS] is a product's
input: the rows divided by their absmax, then the fixed columns of Int8Dynamic. An *accumulator* is a product's result
before it is multiplied by the weight's scale per column and the input's absmax per row.

Rows are computed one after the other, so a row's bits depend on no other row. Sums may be reordered to fill vector
registers and products fused with sums; nothing else is relaxed. Compiled code is kept beside this file, or where that
is read-only in the user's cache folder, so that only the first start on a machine compiles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from backends.transformer.cpu_int8.arrays import Floats, Integers, KVRows
from backends.transformer.cpu_kernels import FIXED_COLUMNS

Loop = Callable[..., Any]
_RELAXED = frozenset({"reassoc", "contract", "nsz"})
_LEAST = np.float32(1e-12)  # smallest absmax, as in Int8Dynamic
_ONE, _HALF, _ZERO = np.float32(1.0), np.float32(0.5), np.float32(0.0)
_MAGNITUDE = np.int32(0x7FFFFFFF)  # a float's bits without the sign: they order like the magnitudes


def _compiled(function: Loop, relaxed: frozenset[str] = _RELAXED) -> Loop:
    """Compile a function; the code is kept between starts where a folder for it can be written."""
    options = {"nogil": True, "fastmath": set(relaxed), "error_model": "numpy"}
    try:
        made: Loop = njit(cache=True, **options)(function)
    except RuntimeError:  # no such folder
        made = njit(**options)(function)
    return made


def _exact(function: Loop) -> Loop:
    """Compile without relaxations: bit for bit what the torch operators of Int8Dynamic compute."""
    return _compiled(function, frozenset())


def _inner(function: Loop) -> Loop:
    """Compile a function that the loops call."""
    made: Loop = njit(error_model="numpy", fastmath=set(_RELAXED))(function)
    return made


def _float_of_bits(_context: Any, value: Any) -> Any:
    """The float32 of these 32 bits."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


def _bits_of_float(_context: Any, value: Any) -> Any:
    """The 32 bits of this float32."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


_as_float, _as_bits = intrinsic(_float_of_bits), intrinsic(_bits_of_float)

_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)  # ln 2 in two parts, the first exact
_LOWEST, _HIGHEST = np.float32(-87.0), np.float32(88.0)
_P0, _P1, _P2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
_P3, _P4, _P5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)


@_inner
def _exp(x: Any) -> Any:
    """exp of a float32 within 2e-7 of its value, in operations that vectorise; the polynomial is Cephes' expf.

    exp(x) = 2^n exp(r) with n = round(x / ln 2). Below -87 it stays at the smallest normal number.
    """
    x = min(max(x, _LOWEST), _HIGHEST)
    n = np.floor(x * _LOG2_E + _HALF)
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    curve = ((((_P0 * r + _P1) * r + _P2) * r + _P3) * r + _P4) * r + _P5
    return (curve * r * r + r + _ONE) * _as_float((np.int32(n) + np.int32(127)) << np.int32(23))


@_compiled
def add_norm(
    x: Floats, accumulator: Floats, scale: Floats, absmax: Floats, weight: Floats, eps: np.float32, workspace: Floats
) -> None:
    """x += the scaled product, in place; workspace := RMSNorm(x) divided by its absmax, which replaces the old one.

    x, accumulator [rows, width], scale, weight [width], absmax [rows], workspace [rows, width + FIXED_COLUMNS].
    """
    width = x.shape[1]
    for i in range(x.shape[0]):
        row, product, into, absmax_value = x[i], accumulator[i], workspace[i], absmax[i]
        square, largest = _ZERO, np.int32(0)
        for j in range(width):
            value = row[j] + product[j] * scale[j] * absmax_value
            row[j] = value
            square += value * value
            value *= weight[j]
            into[j] = value
            largest = max(largest, _as_bits(value) & _MAGNITUDE)
        rms = np.sqrt(square / np.float32(width) + eps)
        divisor = max(_as_float(largest), _LEAST * rms)
        for j in range(width):
            into[j] /= divisor
        absmax[i] = divisor / rms


@_compiled
def add_norm_out(
    x: Floats, accumulator: Floats, scale: Floats, absmax: Floats, weight: Floats, eps: np.float32, out: Floats
) -> None:
    """out [rows, width] := RMSNorm of x plus the scaled product."""
    width = x.shape[1]
    for i in range(x.shape[0]):
        row, product, into, absmax_value = x[i], accumulator[i], out[i], absmax[i]
        square = _ZERO
        for j in range(width):
            value = row[j] + product[j] * scale[j] * absmax_value
            square += value * value
            into[j] = value * weight[j]
        rms = np.sqrt(square / np.float32(width) + eps)
        for j in range(width):
            into[j] /= rms


@_compiled
def gate(accumulator: Floats, scale: Floats, absmax: Floats, workspace: Floats) -> None:
    """workspace := silu(gate) * up divided by its absmax; accumulator [rows, 2 * hidden] holds gate, then up."""
    hidden = accumulator.shape[1] // 2
    gate_scale, up_scale = scale[:hidden], scale[hidden:]
    for i in range(accumulator.shape[0]):
        gates, ups, into, absmax_value = accumulator[i, :hidden], accumulator[i, hidden:], workspace[i], absmax[i]
        largest = np.int32(0)
        for j in range(hidden):
            gated = gates[j] * gate_scale[j] * absmax_value
            value = gated / (_ONE + _exp(-gated)) * (ups[j] * up_scale[j] * absmax_value)
            into[j] = value
            largest = max(largest, _as_bits(value) & _MAGNITUDE)
        divisor = max(_as_float(largest), _LEAST)
        for j in range(hidden):
            into[j] /= divisor
        absmax[i] = divisor


@_compiled
def attend(
    accumulator: Floats,
    scale: Floats,
    absmax: Floats,
    rotary: Floats,
    cache: KVRows,
    scores: Floats,
    workspace: Floats,
) -> None:
    """workspace := attention of every row over positions 0..its own of its slot, divided by its absmax.

    accumulator [rows, (heads + 2 * kv_heads) * D] holds q, k and v; rotary [max_positions, D] cosines and sines by
    turns; cache: keys and values, the rows' own are stored in it; scores: space for [heads per kv head, length].
    All rows are stored before any is read, so rows of one slot may stand at consecutive positions.
    """
    keys, values, slots, positions = cache
    kv_heads, width = keys.shape[1], keys.shape[3]
    size = workspace.shape[1] - FIXED_COLUMNS
    group = size // width // kv_heads
    for i in range(accumulator.shape[0]):
        row, absmax_value, angles = accumulator[i], absmax[i], rotary[positions[i]]
        for j in range(row.shape[0]):
            row[j] *= scale[j] * absmax_value
        for head in range(kv_heads * (group + 1)):
            _rotate(row[head * width : (head + 1) * width], angles)
        for head in range(kv_heads):
            key, value = keys[slots[i], head, positions[i]], values[slots[i], head, positions[i]]
            at = size + head * width
            for d in range(width):
                key[d] = row[at + d]
                value[d] = row[at + kv_heads * width + d]
    for i in range(accumulator.shape[0]):
        into, used = workspace[i, :size], positions[i] + 1
        for head in range(kv_heads):
            part = slice(head * group * width, (head + 1) * group * width)
            _attend_head(
                accumulator[i, part], keys[slots[i], head, :used], values[slots[i], head, :used], scores, into[part]
            )
        absmax[i] = _divide_by_absmax(into)


@_inner
def _rotate(head: Floats, angles: Floats) -> None:
    """Rotate the pairs (2j, 2j + 1) of one head [D] in place."""
    for j in range(head.shape[0] // 2):
        a, b, cosine, sine = head[2 * j], head[2 * j + 1], angles[2 * j], angles[2 * j + 1]
        head[2 * j] = a * cosine - b * sine
        head[2 * j + 1] = a * sine + b * cosine


@_inner
def _attend_head(queries: Floats, keys: Floats, values: Floats, scores: Floats, out: Floats) -> None:
    """out := softmax(q k / sqrt(D)) v for the query heads of one key head; queries, out [group * D], keys [used, D]."""
    used, width = keys.shape
    factor = _ONE / np.sqrt(np.float32(width))
    for g in range(queries.shape[0] // width):
        weights = scores[g, :used]
        _products(queries[g * width : (g + 1) * width], keys, factor, weights)
        share = _ONE / _exponentials(weights)
        _mean(values, weights, share, out[g * width : (g + 1) * width])


@_inner
def _products(query: Floats, keys: Floats, factor: np.float32, out: Floats) -> None:
    """out [used] := keys [used, D] times query [D] times factor; four keys at a time, so that sums overlap."""
    used, width = keys.shape
    unrolled = used - used % 4
    for t in range(0, unrolled, 4):
        first, second, third, fourth = keys[t], keys[t + 1], keys[t + 2], keys[t + 3]
        a, b, c, e = _ZERO, _ZERO, _ZERO, _ZERO
        for d in range(width):
            a += query[d] * first[d]
            b += query[d] * second[d]
            c += query[d] * third[d]
            e += query[d] * fourth[d]
        out[t], out[t + 1], out[t + 2], out[t + 3] = a * factor, b * factor, c * factor, e * factor
    for t in range(unrolled, used):
        key, a = keys[t], _ZERO
        for d in range(width):
            a += query[d] * key[d]
        out[t] = a * factor


@_inner
def _mean(values: Floats, weights: Floats, share: np.float32, out: Floats) -> None:
    """out [D] := weights [used] times values [used, D] times share; four rows at a time, so that out is written
    less."""
    used, width = values.shape
    unrolled = used - used % 4
    for d in range(width):
        out[d] = _ZERO
    for t in range(0, unrolled, 4):
        first, second, third, fourth = values[t], values[t + 1], values[t + 2], values[t + 3]
        a, b, c, e = weights[t] * share, weights[t + 1] * share, weights[t + 2] * share, weights[t + 3] * share
        for d in range(width):
            out[d] += a * first[d] + b * second[d] + c * third[d] + e * fourth[d]
    for t in range(unrolled, used):
        value, a = values[t], weights[t] * share
        for d in range(width):
            out[d] += a * value[d]


@_inner
def _exponentials(scores: Floats) -> Any:
    """scores := exp(scores - largest), in place; returns their sum."""
    largest = scores[0]
    for t in range(scores.shape[0]):
        largest = max(largest, scores[t])
    total = _ZERO
    for t in range(scores.shape[0]):
        scores[t] = _exp(scores[t] - largest)
        total += scores[t]
    return total


@_inner
def _divide_by_absmax(row: Floats) -> Any:
    """row := row / its largest magnitude, which is returned."""
    largest = np.int32(0)
    for j in range(row.shape[0]):
        largest = max(largest, _as_bits(row[j]) & _MAGNITUDE)
    divisor = max(_as_float(largest), _LEAST)
    for j in range(row.shape[0]):
        row[j] /= divisor
    return divisor


@_exact
def divide(x: Floats, workspace: Floats, absmax: Floats) -> None:
    """workspace := rows of x [rows, columns] divided by their absmax, which goes to absmax [rows]."""
    columns = x.shape[1]
    for i in range(x.shape[0]):
        row, into = x[i], workspace[i, :columns]
        for j in range(columns):
            into[j] = row[j]
        absmax[i] = _divide_by_absmax(into)


@_exact
def finish(accumulator: Floats, scale: Floats, absmax: Floats) -> None:
    """accumulator [rows, out] *= the weight's scale [out] and the input's absmax [rows]."""
    for i in range(accumulator.shape[0]):
        row, absmax_value = accumulator[i], absmax[i]
        for j in range(row.shape[0]):
            row[j] = row[j] * scale[j] * absmax_value


@_compiled
def pick(
    logits: Floats, noise: Floats, draw: int, temperature: Floats, top_k: Integers, space: Floats, out: Floats
) -> None:
    """out int64 [rows] := sampling.pick of logits [rows, n or more] with noise[:, draw], Exp(1) of [rows, draws, n].

    temperature float32 [rows] (0: greedy), top_k int64 [rows]; space: float32 of at least 2 n. A heap of the k
    largest finds the cut, and only what lies above it is divided by its noise: argmax(p / noise) needs no sum.
    """
    size = noise.shape[2]
    for i in range(noise.shape[0]):
        row, drawn, scaled, heap = logits[i], noise[i, draw], space[:size], space[size:]
        largest, best = row[0], 0
        for j in range(1, size):
            if row[j] > largest:
                largest, best = row[j], j
        out[i] = best
        if temperature[i] <= _ZERO:
            continue
        for j in range(size):
            scaled[j] = row[j] / temperature[i]
        count = top_k[i]
        cut = _kth_largest(scaled, heap[:count]) if 0 < count < size else -np.float32(np.inf)
        top, most = largest / temperature[i], -_ONE
        for j in range(size):
            if scaled[j] >= cut:
                chance = _exp(scaled[j] - top) / drawn[j]
                if chance > most:
                    most, out[i] = chance, j


@_inner
def _kth_largest(values: Floats, heap: Floats) -> Any:
    """The len(heap)-th largest of values; heap becomes a binary heap with the least of the largest on top."""
    count = heap.shape[0]
    heap[:] = values[:count]
    for i in range(count // 2 - 1, -1, -1):
        _sift(heap, i)
    for j in range(count, values.shape[0]):
        if values[j] > heap[0]:
            heap[0] = values[j]
            _sift(heap, 0)
    return heap[0]


@_inner
def _sift(heap: Floats, i: int) -> None:
    """Let the entry at i sink below the smaller of its children until none is smaller."""
    count = heap.shape[0]
    while 2 * i + 1 < count:
        child = 2 * i + 1
        if child + 1 < count and heap[child + 1] < heap[child]:
            child += 1
        if heap[i] <= heap[child]:
            return
        heap[i], heap[child] = heap[child], heap[i]
        i = child
