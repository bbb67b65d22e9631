"""Convolutions of bytes as products of matrices: the same sums, and only where the processor multiplies exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backends.data_packages import is_installed, read_checked
from backends.embedded import kokoro_graph
from backends.embedded.kokoro_graph import multiplies_exactly, quicker, why_not_products, with_products
from backends.embedded.voice_files import KOKORO_FILES, KOKORO_MODEL
from backends.onnx_session import open_session

INPUTS, OUTPUTS, TIME, ZERO, SCALE = 24, 16, 50, 121, 0.01


@pytest.fixture(autouse=True)
def _tried_anew() -> Iterator[None]:
    why_not_products.cache_clear()
    yield
    why_not_products.cache_clear()


exact_only = pytest.mark.skipif(bool(why_not_products()), reason="this processor saturates such products")


def quantised(taps: int, dilation: int, *, with_bias: bool, stride: int = 1) -> bytes:
    """One convolution as quantisation writes it, its bias divided by both scales and rounded down."""
    random = np.random.default_rng(taps)
    edge = dilation * (taps - 1) // 2
    stored = {
        "weight": random.integers(0, 256, (OUTPUTS, INPUTS, taps)).astype(np.uint8),
        "zero": np.uint8(ZERO),
        "weight_scale": np.float32(SCALE),
        "bias": random.standard_normal(OUTPUTS).astype(np.float32),
        "shape": np.array([1, OUTPUTS, 1], np.int64),
    }
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["bytes", "x_scale", "x_zero"]),
        helper.make_node("Mul", ["x_scale", "weight_scale"], ["scale"]),
        helper.make_node(
            "ConvInteger",
            ["bytes", "weight", "x_zero", "zero"],
            ["sums"],
            name="conv",
            strides=[stride],
            group=1,
            kernel_shape=[taps],
            dilations=[dilation],
            pads=[edge, edge],
        ),
    ]
    if with_bias:
        nodes += [
            helper.make_node("Div", ["bias", "scale"], ["divided"]),
            helper.make_node("Floor", ["divided"], ["floored"]),
            helper.make_node("Cast", ["floored"], ["whole"], to=TensorProto.INT32),
            helper.make_node("Reshape", ["whole", "shape"], ["shaped"]),
            helper.make_node("Add", ["sums", "shaped"], ["biased"]),
        ]
    nodes += [
        helper.make_node("Cast", ["biased" if with_bias else "sums"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "scale"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, INPUTS, "time"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, OUTPUTS, "frames"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


def kinds(model: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(model).graph.node]


def output(model: bytes, weights: Any = None) -> np.ndarray:
    sound = np.random.default_rng(9).standard_normal((1, INPUTS, TIME)).astype(np.float32)
    result: np.ndarray = open_session(model, 1, weights=weights).run(None, {"x": sound})[0]
    return result


@exact_only
@pytest.mark.parametrize(("taps", "dilation"), [(1, 1), (3, 1), (7, 5), (11, 3)])
def test_a_product_gives_the_sums_of_the_convolution(taps: int, dilation: int) -> None:
    model = quantised(taps, dilation, with_bias=False)
    made = with_products(model)
    assert "ConvInteger" not in kinds(made.model)
    assert output(made.model, made.weights) == pytest.approx(output(model), rel=1e-6, abs=1e-5)


@exact_only
def test_a_bias_is_added_as_it_was_before_it_was_rounded() -> None:
    model = quantised(3, 1, with_bias=True)
    made = with_products(model)
    assert "Floor" not in kinds(made.model)
    rounded, plain = output(model), output(made.model, made.weights)
    step = np.float32(SCALE) * 8 / 255  # of whole numbers: both scales, that of values within 4 of zero
    assert (plain >= rounded - 1e-5).all()
    assert np.abs(plain - rounded).max() <= step
    without = with_products(quantised(3, 1, with_bias=False))
    assert np.abs(plain - output(without.model, without.weights)).max() > 0.5


def test_what_is_of_another_form_stays() -> None:
    model = quantised(3, 1, with_bias=True, stride=2)
    made = with_products(model)
    assert kinds(made.model) == kinds(model)
    assert not made.weights
    assert np.array_equal(output(made.model), output(model))


def test_a_processor_that_multiplies_inexactly_gets_the_published_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> bool:
        raise RuntimeError("no kernel of that name")

    model = quantised(3, 1, with_bias=True)
    for trial, why in ((lambda: False, "saturate"), (unknown, "no kernel of that name")):
        monkeypatch.setattr(kokoro_graph, "multiplies_exactly", trial)
        why_not_products.cache_clear()
        kept = quicker(model)
        assert kept.model == model
        assert why in kept.kept
    monkeypatch.setattr(kokoro_graph, "multiplies_exactly", lambda: True)
    why_not_products.cache_clear()
    made = quicker(model)
    assert "ConvInteger" not in kinds(made.model)
    assert not made.kept


class Saturating:
    """A session of a processor that adds pairs of products in 16 bits."""

    def __init__(self, model: bytes) -> None:
        (tensor,) = [one for one in onnx.load_from_string(model).graph.initializer if one.name == "weight"]
        self._weight = numpy_helper.to_array(tensor).astype(np.int64)

    def run(self, _: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        values = inputs["values"].astype(np.int64)
        pairs = [values[:, at : at + 2] @ self._weight[at : at + 2] for at in range(0, values.shape[1], 2)]
        return [np.clip(pairs, -32768, 32767).sum(axis=0).astype(np.float32)]


def test_sums_that_saturate_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kokoro_graph, "open_session", lambda model, threads: Saturating(model))
    assert not multiplies_exactly()


@pytest.mark.real_weights
@pytest.mark.skipif(not is_installed(*KOKORO_FILES), reason="the Japanese voices are not installed")
def test_nearly_all_convolutions_of_the_published_graph_become_products() -> None:
    made = with_products(read_checked(KOKORO_MODEL))
    assert len(made.weights) == 84
    assert kinds(made.model).count("ConvInteger") == 3  # of strides beyond one
