"""Which products of int8 weights this processor computes right, and which of those is best.

Instruction sets differ in what they do to sums of byte products: without VNNI, x86 adds pairs of them in 16 bits, which
saturates for full-range weights. Nobody is asked for a processor's name here: every candidate is built as the graphs
build it and computes small problems whose exact results are known, extreme values included. What is wrong is never
chosen. Then the right ones are timed.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from backends.onnx_runtime import onnxruntime
from backends.whisper.checkpoint import Checkpoint
from backends.whisper.config import ModelDimensions
from backends.whisper.onnx.faults import engine_error
from backends.whisper.onnx.graph import GraphWriter
from backends.whisper.onnx.layers import GraphConfig, Layers

Floats = NDArray[np.float32]
Multiply = Callable[[Floats], Floats]
MakeProduct = Callable[[str, Floats], Multiply]

FLOAT = "float32"
WIDE, NARROW = ("rows-8", "rows-7"), ("blocks-8", "rows-8", "rows-7")  # in the order of their precision
_TOP = {"rows-8": 127, "rows-7": 63, "blocks-8": 127, FLOAT: 127}  # the largest quantised weight
_INPUTS, _OUTPUTS = 512, 96  # of the exact problems
_ROWS = (1, 4, 33)  # a kernel may treat one row, few and many by different code
_TOLERANCE = 1e-4  # of the sum of all magnitudes; float32 loses less over 512 terms, saturation far more
_WIDE_ROWS, _TIMED_INPUTS, _TIMED_OUTPUTS = 128, 768, 2304  # small's fused attention projection
_ROUNDS = 4  # the first one allocates
# How much slower a more precise product may be and still be taken: times on a busy machine are no more exact than the
# first; what an imprecise decoder costs in words was not measured, so precision weighs more there.
_WIDE_MARGIN, _NARROW_MARGIN = 1.25, 2.0
_INT8_MARGIN = 1.5  # int8 needs a quarter of the memory, so float32 has to be clearly faster
_WINDOW_ROWS, _WINDOW_TOKENS = 1500, 100  # of 30 s of speech: encoder positions, and about as many tokens


@dataclass(frozen=True, slots=True)
class Trial:
    """seconds: of one product of the timed size."""

    product: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Choice:
    """wide, narrow: the products chosen, "" where none is right; faults: of those that are wrong; seconds: estimate of
    all linear layers of a window, by dtype, in units of one layer of the timed size."""

    wide: str
    narrow: str
    faults: tuple[str, ...]
    seconds: dict[str, float]

    @property
    def is_right(self) -> bool:
        return bool(self.wide and self.narrow)

    def auto(self) -> tuple[str, str]:
        """The best dtype that is right here, and why."""
        if not self.is_right:
            return FLOAT, f"float32, because no int8 product is right on this processor: {'; '.join(self.faults)}"
        int8, single = self.seconds["int8"] * 1e3, self.seconds[FLOAT] * 1e3
        best = "int8" if int8 <= _INT8_MARGIN * single else FLOAT
        return (
            best,
            f"{best}: one layer's products of a window took {int8:.1f} ms in int8 and {single:.1f} ms in float32",
        )


@lru_cache(maxsize=1)
def int8_choice() -> Choice:
    """What this machine's onnxruntime does; measured once per process, in less than a second."""
    choice = choose(onnx_product)
    for fault in choice.faults:
        print(f"int8: {fault}", file=sys.stderr)  # the worker's log
    return choice


def choose(make: MakeProduct) -> Choice:
    """Try every candidate. make(product, weight [inputs, outputs]): a function of rows [rows, inputs]."""
    faults = {product: find_fault(make, product) for product in dict.fromkeys((*WIDE, *NARROW))}
    right = [product for product, fault in faults.items() if not fault]
    weight = np.random.default_rng(0).standard_normal((_TIMED_INPUTS, _TIMED_OUTPUTS)).astype(np.float32)
    multiply = {product: make(product, weight) for product in (FLOAT, *right)}
    wide = _timed(multiply, [FLOAT, *(product for product in WIDE if product in right)], _WIDE_ROWS)
    narrow = _timed(multiply, [FLOAT, *(product for product in NARROW if product in right)], 1)
    best_wide, best_narrow = _best(wide[1:], _WIDE_MARGIN), _best(narrow[1:], _NARROW_MARGIN)
    return Choice(
        best_wide.product,
        best_narrow.product,
        tuple(fault for fault in faults.values() if fault),
        {FLOAT: _window(wide[0], narrow[0]), "int8": _window(best_wide, best_narrow)},
    )


def _window(wide: Trial, narrow: Trial) -> float:
    return wide.seconds * _WINDOW_ROWS / _WIDE_ROWS + narrow.seconds * _WINDOW_TOKENS


def _best(trials: Sequence[Trial], margin: float) -> Trial:
    """The most precise of those that are not much slower than the quickest."""
    quickest = min((trial.seconds for trial in trials), default=0.0)
    return next((trial for trial in trials if trial.seconds <= margin * quickest), Trial("", 0.0))


def _timed(multiply: dict[str, Multiply], products: Sequence[str], rows: int) -> list[Trial]:
    """The best of several rounds, in which the products take turns, so that a busy moment strikes them all."""
    values = np.random.default_rng(1).standard_normal((rows, _TIMED_INPUTS)).astype(np.float32)
    rounds = [[_seconds(multiply[product], values) for product in products] for _ in range(_ROUNDS)]
    return [Trial(product, seconds) for product, seconds in zip(products, np.min(rounds, axis=0).tolist(), strict=True)]


def _seconds(multiply: Multiply, values: Floats) -> float:
    begun = time.perf_counter()
    multiply(values)
    return time.perf_counter() - begun


def find_fault(make: MakeProduct, product: str) -> str:
    """Empty if the product gives the exact result of every problem, else a sentence about what it gave instead."""
    weight, values = exact_problem(_TOP[product])
    try:
        multiply = make(product, weight)
        worst = max(_worst(multiply, values[:rows], weight) for rows in _ROWS)
    except (
        Exception
    ) as error:  # onnxruntime's own have no base class but this; one that cannot run is not chosen either
        return f"{product} does not run on this processor ({error})"
    if worst <= _TOLERANCE:
        return ""
    return f"{product} is wrong on this processor: off by up to {100 * worst:.2g} % of the sum of all magnitudes"


def exact_problem(top: int) -> tuple[Floats, Floats]:
    """Weights [inputs, outputs] up to `top` and values [rows, inputs] up to 127 that quantisation leaves as they are:
    whole numbers, with the largest in every block of 16 inputs. Columns and rows of extremes of one sign, of both, and
    of zeros."""
    rng = np.random.default_rng(2)
    weight = rng.integers(-top, top + 1, (_INPUTS, _OUTPUTS))
    values = rng.integers(-127, 128, (max(_ROWS), _INPUTS))
    weight[::16] = np.where(rng.random((_INPUTS // 16, _OUTPUTS)) < 0.5, top, -top)
    values[:, ::16] = np.where(rng.random((max(_ROWS), _INPUTS // 16)) < 0.5, 127, -127)
    signs = np.where(np.arange(_INPUTS) % 2, 1, -1)
    for column, pattern in enumerate((np.ones(_INPUTS), -np.ones(_INPUTS), signs)):
        weight[:, column] = top * pattern
        values[column] = 127 * pattern
    values[3] = 0
    return weight.astype(np.float32), values.astype(np.float32)


def _worst(multiply: Multiply, values: Floats, weight: Floats) -> float:
    """The largest error, as a part of the sum of all magnitudes; infinite for what is no number or of another shape."""
    exact, magnitude = values.astype(np.float64) @ weight, np.abs(values).astype(np.float64) @ np.abs(weight)
    given = multiply(values)
    if given.shape != exact.shape or not np.isfinite(given).all():
        return float("inf")
    return float((np.abs(given - exact) / np.maximum(magnitude, 1.0)).max())


def onnx_product(product: str, weight: Floats) -> Multiply:
    """The product as the graphs hold it, on one thread of the CPU. Raises what `engine_error` makes of a failure."""
    weights = FLOAT if product == FLOAT else "int8"
    form = GraphConfig(weights=weights, wide=product, narrow=product)
    with tempfile.TemporaryDirectory(prefix="speech-gateway-", ignore_cleanup_errors=True) as name:
        graph = GraphWriter(Path(name), "product")
        layers = Layers(
            graph, cast(Checkpoint, None), cast(ModelDimensions, None), form, wide=product.startswith("rows")
        )
        given = graph.input("values", ["rows", weight.shape[0]])
        graph.output(layers.product(given, weight, None), "product", ["rows", weight.shape[1]])
        graph.save()
        session = _session(Path(name) / "product.onnx")
    return lambda values: cast(Floats, session.run(None, {"values": values})[0])


def _session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own have no base class but this
        raise engine_error(error) from error
