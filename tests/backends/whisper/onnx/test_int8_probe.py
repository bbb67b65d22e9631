"""int8 products: what is wrong on this processor is found and never chosen, whatever the processor is."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from backends.interface import ModelFiles, ModelUnavailable, Placement
from backends.whisper.backend import WhisperBackend
from backends.whisper.config import read_dims
from backends.whisper.onnx import engine as onnx_engine
from backends.whisper.onnx import int8_probe as products
from backends.whisper.onnx.engine import OnnxNetwork
from backends.whisper.onnx.int8_probe import (
    FLOAT,
    NARROW,
    WIDE,
    Choice,
    Floats,
    choose,
    exact_problem,
    find_fault,
    onnx_product,
)
from tests.backends.whisper.checkpoints import Reference

Multiply = Callable[[Floats], Floats]


def exact(weight: Floats) -> Multiply:
    return lambda values: (values.astype(np.float64) @ weight).astype(np.float32)


def saturating(weight: Floats) -> Multiply:
    """What AVX2 without VNNI does: unsigned times signed bytes, pairs of products summed in 16 bits with saturation."""

    def multiply(values: Floats) -> Floats:
        unsigned = values.astype(np.int64) + 128
        pairs = np.zeros((len(values), weight.shape[1]), np.int64)
        for first in range(0, weight.shape[0], 2):
            both = unsigned[:, first : first + 2] @ weight[first : first + 2].astype(np.int64)
            pairs += np.clip(both, -32768, 32767)
        return (pairs - 128 * weight.astype(np.int64).sum(axis=0)).astype(np.float32)

    return multiply


class Processor:
    """make(product, weight) of a pretended processor; seconds: what each product takes by the clock of `clocked`."""

    def __init__(
        self, seconds: dict[str, float], broken: dict[str, Callable[[Floats], Multiply]] | None = None
    ) -> None:
        self.seconds, self.broken, self.now = seconds, broken or {}, 0.0

    def make(self, product: str, weight: Floats) -> Multiply:
        multiply = self.broken.get(product, exact)(weight)

        def timed(values: Floats) -> Floats:
            self.now += self.seconds[product]
            return multiply(values)

        return timed


def choice_of(processor: Processor, monkeypatch: pytest.MonkeyPatch) -> Choice:
    monkeypatch.setattr(products.time, "perf_counter", lambda: processor.now)
    return choose(processor.make)


SECONDS = {FLOAT: 4.0, "rows-8": 1.0, "rows-7": 1.0, "blocks-8": 1.0}


def test_where_all_are_right_the_most_precise_of_the_quick_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    found = choice_of(Processor(SECONDS), monkeypatch)
    assert (found.wide, found.narrow, found.faults) == ("rows-8", "blocks-8", ())
    assert found.auto()[0] == "int8"


def test_a_product_that_saturates_is_not_chosen_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = choice_of(Processor(SECONDS | {"rows-8": 0.1}, {"rows-8": saturating}), monkeypatch)
    assert (found.wide, found.narrow) == ("rows-7", "blocks-8")
    assert len(found.faults) == 1
    assert found.faults[0].startswith("rows-8 is wrong on this processor: off by up to")


def test_seven_bits_survive_saturating_pairs() -> None:
    """255 * 63 * 2 is below 32768."""
    assert find_fault(lambda _, weight: saturating(weight), "rows-7") == ""


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("one element", lambda y: y + (np.arange(y.size).reshape(y.shape) == y.size // 2) * np.abs(y).max()),
        ("scale", lambda y: y * 1.01),
        ("not a number", lambda y: np.where(np.arange(y.shape[1]) == 7, np.nan, y)),
        ("shape", lambda y: y[:, :-1]),
        ("nothing", np.zeros_like),
    ],
)
def test_any_wrong_result_is_noticed(name: str, wrong: Callable[[Floats], Floats]) -> None:
    assert "wrong on this processor" in find_fault(
        lambda _, weight: lambda values: wrong(exact(weight)(values)), "blocks-8"
    ), name


@pytest.mark.parametrize("rows", products._ROWS)
def test_a_kernel_that_is_wrong_for_some_numbers_of_rows_only_is_noticed(rows: int) -> None:
    def make(_: str, weight: Floats) -> Multiply:
        return lambda values: exact(weight)(values) * (0.5 if len(values) == rows else 1)

    assert find_fault(make, "rows-8")


def test_a_product_that_does_not_run_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(weight: Floats) -> Multiply:
        raise ModelUnavailable("MatMulNBits: no such kernel")

    found = choice_of(Processor(SECONDS, {"blocks-8": missing}), monkeypatch)
    assert found.narrow == "rows-8"
    assert "no such kernel" in found.faults[0]


def test_what_measured_much_quicker_is_taken_though_less_precise(monkeypatch: pytest.MonkeyPatch) -> None:
    found = choice_of(Processor(SECONDS | {"blocks-8": 30.0, "rows-8": 20.0}), monkeypatch)
    assert (found.wide, found.narrow) == ("rows-7", "rows-7")


def test_auto_is_float32_where_that_measured_clearly_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    found = choice_of(Processor(SECONDS | {FLOAT: 0.1}), monkeypatch)
    assert found.is_right
    dtype, reason = found.auto()
    assert dtype == "float32"
    assert "in int8 and" in reason


def broken_everywhere(monkeypatch: pytest.MonkeyPatch) -> Choice:
    wrong = dict.fromkeys((*WIDE, *NARROW), lambda weight: lambda values: exact(weight)(values) + 1e9)
    return choice_of(Processor(SECONDS, wrong), monkeypatch)


def test_auto_is_float32_where_no_product_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    found = broken_everywhere(monkeypatch)
    assert (found.wide, found.narrow) == ("", "")
    dtype, reason = found.auto()
    assert dtype == "float32"
    assert "no int8 product is right" in reason


def test_int8_that_is_asked_for_but_wrong_is_refused(multilingual: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    found = broken_everywhere(monkeypatch)
    monkeypatch.undo()
    monkeypatch.setattr(onnx_engine, "int8_choice", lambda: found)
    with pytest.raises(ModelUnavailable, match=r'no int8 product is right.*set dtype = "float32"'):
        OnnxNetwork(multilingual.folder, read_dims(multilingual.folder), dtype="int8")


def test_the_load_says_what_was_chosen_and_why(multilingual: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Choice("rows-7", "blocks-8", ("rows-8 is wrong on this processor",), {"int8": 0.001, FLOAT: 0.002})
    monkeypatch.setattr(products, "int8_choice", lambda: found)
    monkeypatch.setattr(onnx_engine, "int8_choice", lambda: found)
    folder = multilingual.folder
    backend = WhisperBackend()
    detail = backend.load(ModelFiles("w", str(folder), folder, folder, folder, {}), Placement(engine="onnx")).detail
    assert detail["products"] == {"encoder": "rows-7", "decoder": "blocks-8"}
    assert detail["avoided"] == ["rows-8 is wrong on this processor"]
    assert detail["dtype_reason"] == "int8: one layer's products of a window took 1.0 ms in int8 and 2.0 ms in float32"


# --- This machine's real products -------------------------------------------------------------------------------------


def test_what_is_chosen_here_is_right_on_other_numbers_too() -> None:
    """Random weights and rows, not those of the trial; the bound is the quantisation's own error."""
    rng = np.random.default_rng(7)
    weight = rng.standard_normal((256, 64)).astype(np.float32)
    values = rng.standard_normal((5, 256)).astype(np.float32)
    found = products.int8_choice()
    assert found.is_right
    for product in {found.wide, found.narrow}:
        error = np.abs(onnx_product(product, weight)(values) - values @ weight) / (np.abs(values) @ np.abs(weight))
        assert error.max() < 0.02, product


def test_seven_bits_are_right_on_every_processor() -> None:
    assert find_fault(onnx_product, "rows-7") == ""
    assert find_fault(onnx_product, FLOAT) == ""


def test_the_problems_have_extremes_and_survive_quantisation() -> None:
    weight, values = exact_problem(63)
    assert (np.abs(weight).max(), np.abs(values).max()) == (63, 127)
    assert (weight == np.rint(weight)).all()
    sums = values @ weight
    assert sums.max() == 512 * 127 * 63
    assert sums.min() == -512 * 127 * 63
    for block, column in itertools.product(range(0, 512, 16), range(weight.shape[1])):
        assert np.abs(weight[block : block + 16, column]).max() == 63
