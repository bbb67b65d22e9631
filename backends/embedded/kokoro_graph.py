"""Kokoro's int8 graph made quicker: its convolutions become products of int8 matrices.

onnxruntime convolves unsigned bytes with a kernel that knows no dot products of bytes, and that is seven tenths of the
model's time. The same sums as one product of unsigned activations and signed weights, packed once at the load, take
less than half as long where the processor has such instructions (x86 with VNNI: 0.33 instead of 0.50 processor seconds
per second of speech). Where it has none, such products may saturate: `why_not_products` tries them, and the graph
stays as it is published. Knows no phonemes and no voices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from backends.onnx_session import open_session

_MICROSOFT = "com.microsoft"
_TO_SIGNED = np.uint8(128)  # flips the bit that takes 128 from a byte; the zero point moves along, so the sums stay
_TO_END = 2**31  # of a slice
_ROWS, _INPUTS, _OUTPUTS = 33, 512, 96  # of the product that is tried: more than one block of every kernel


@dataclass(frozen=True, slots=True)
class QuickGraph:
    """model: serialised; weights: those that it leaves outside, int8 by name; kept: why it is the published graph, ""
    if it is not."""

    model: bytes
    weights: Mapping[str, NDArray[np.int8]]
    kept: str = ""


def quicker(model: bytes) -> QuickGraph:
    """The graph with products for convolutions; as it was where this machine does not multiply right."""
    why = why_not_products()
    return QuickGraph(model, {}, why) if why else with_products(model)


@lru_cache(maxsize=1)
def why_not_products() -> str:
    """Why the graph stays as it is published: what a small product gives here is wrong, or cannot be had; "" if it is
    right."""
    try:
        right = multiplies_exactly()
    except Exception as error:  # onnxruntime's exceptions have no common base of their own
        return f"onnxruntime has no product of bytes here: {error}"
    return "" if right else "products of bytes saturate on this processor"


def multiplies_exactly() -> bool:
    """Whether products of unsigned and signed bytes are right here at their extremes, which saturate sums of 16
    bits. Raises what onnxruntime raises where it has no such product."""
    weight = np.where(np.arange(_INPUTS * _OUTPUTS).reshape(_INPUTS, _OUTPUTS) % 7 < 4, 127, -128).astype(np.int8)
    values = np.where(np.arange(_ROWS * _INPUTS).reshape(_ROWS, _INPUTS) % 5 < 4, 255, 0).astype(np.uint8)
    given = helper.make_tensor_value_info("values", TensorProto.UINT8, ["rows", _INPUTS])
    product = helper.make_tensor_value_info("product", TensorProto.FLOAT, ["rows", _OUTPUTS])
    stored = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.float32(1), "one")]
    node = helper.make_node("MatMulIntegerToFloat", ["values", "weight", "one", "one"], ["product"], domain=_MICROSOFT)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(_MICROSOFT, 1)]
    graph = helper.make_graph([node], "product", [given], [product], stored)
    session = open_session(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString(), 1)
    return np.array_equal(session.run(None, {"values": values})[0], values.astype(np.int64) @ weight.astype(np.int64))


def with_products(model: bytes) -> QuickGraph:
    """The graph with every quantised convolution of one axis and of stride 1 as a product of matrices, whose weights
    stay outside: to write them into the graph would take longer than all the rest."""
    loaded = onnx.load_from_string(model)
    graph = loaded.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes, made, weights = list(graph.node), list[onnx.TensorProto](), dict[str, NDArray[np.int8]]()
    for convolution in list(_convolutions(nodes, stored)):
        product = _Product(convolution)
        position = next(index for index, node in enumerate(nodes) if node is convolution.last)
        nodes[position : position + 1] = product.nodes
        made += product.constants
        weights[product.weight_name] = product.weight
    nodes, used = _needed(nodes, [output.name for output in graph.output])
    unused = [index for index, tensor in enumerate(graph.initializer) if tensor.name not in used]
    for index in reversed(unused):
        del graph.initializer[index]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(made)
    return QuickGraph(loaded.SerializeToString(), weights)


@dataclass(frozen=True, slots=True)
class _Convolution:
    """A convolution as quantisation wrote it: bytes convolved, a bias of whole numbers added, all scaled to floats.

    node: the ConvInteger; last: the Mul that gives the floats; scale: name of the activations' scale; weight uint8
    [outputs, inputs, taps] with one zero point and, by name, one scale; bias: float32 [outputs] or None.
    """

    node: onnx.NodeProto
    last: onnx.NodeProto
    scale: str
    weight: NDArray[np.uint8]
    zero: int
    weight_scale: str
    bias: NDArray[np.float32] | None

    @property
    def attributes(self) -> dict[str, Any]:
        return {item.name: helper.get_attribute_value(item) for item in self.node.attribute}


def _convolutions(nodes: Sequence[onnx.NodeProto], stored: Mapping[str, onnx.TensorProto]) -> Iterator[_Convolution]:
    """Those of this form; any other stays."""
    makers = {output: node for node in nodes for output in node.output}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            users.setdefault(name, []).append(node)
    for node in nodes:
        if node.op_type == "ConvInteger" and _is_plain(node):
            found = _read(node, makers, users, stored)
            if found is not None:
                yield found


def _is_plain(node: onnx.NodeProto) -> bool:
    given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    return given.get("strides") == [1] and given.get("group") == 1 and len(given.get("kernel_shape", ())) == 1


def _read(
    node: onnx.NodeProto,
    makers: Mapping[str, onnx.NodeProto],
    users: Mapping[str, Sequence[onnx.NodeProto]],
    stored: Mapping[str, onnx.TensorProto],
) -> _Convolution | None:
    quantised = makers[node.input[0]]
    following = _single_users(node, users)
    steps = [step.op_type for step in following]
    bias = None
    if steps[:1] == ["Add"]:
        bias = _bias(_other(following[0], node.output[0]), makers, stored)
        following, steps = following[1:], steps[1:]
        if bias is None:
            return None
    if steps[:2] != ["Cast", "Mul"] or quantised.op_type != "DynamicQuantizeLinear":
        return None
    cast, last = following[:2]
    scales = makers[_other(last, cast.output[0])]
    if scales.op_type != "Mul" or quantised.output[1] not in scales.input:
        return None
    weight, zero = (numpy_helper.to_array(stored[name]) for name in (node.input[1], node.input[3]))
    weight_scale = _other(scales, quantised.output[1])
    return _Convolution(node, last, quantised.output[1], weight, int(zero), weight_scale, bias)


def _single_users(node: onnx.NodeProto, users: Mapping[str, Sequence[onnx.NodeProto]]) -> list[onnx.NodeProto]:
    """Up to three nodes behind one, each of which alone uses the one before."""
    found: list[onnx.NodeProto] = []
    while len(found) < 3 and len(using := users.get(node.output[0], ())) == 1:
        node = using[0]
        found.append(node)
    return found


def _other(node: onnx.NodeProto, name: str) -> str:
    """The other one of two inputs."""
    return str(node.input[1] if node.input[0] == name else node.input[0])


def _bias(
    name: str, makers: Mapping[str, onnx.NodeProto], stored: Mapping[str, onnx.TensorProto]
) -> NDArray[np.float32] | None:
    """The bias that was divided by the scales, rounded and reshaped into `name`; None where it was made otherwise."""
    for step in ("Reshape", "Cast", "Floor", "Div"):
        maker = makers.get(name)
        if maker is None or maker.op_type != step:
            return None
        name = maker.input[0]
    return numpy_helper.to_array(stored[name]).reshape(-1).astype(np.float32) if name in stored else None


class _Product:
    """What stands for a convolution: activations [1, inputs, time] turned, every row joined with those that the taps
    reach, and multiplied by the weights of all taps at once: int8 [taps * inputs, outputs]."""

    def __init__(self, convolution: _Convolution) -> None:
        self.nodes, self.constants = list[onnx.NodeProto](), list[onnx.TensorProto]()
        self._name = convolution.node.name
        outputs, inputs, taps = convolution.weight.shape
        signed = (convolution.weight ^ _TO_SIGNED).view(np.int8)
        self.weight = np.ascontiguousarray(signed.transpose(2, 1, 0)).reshape(taps * inputs, outputs)
        self.weight_name = self._outside("weight", self.weight.shape)
        activations, _, activations_zero, _ = convolution.node.input
        rows = self._op("Transpose", "turned", activations, perm=[0, 2, 1])
        rows = self._joined(rows, activations_zero, convolution, taps) if taps > 1 else rows
        zero = self._constant("zero", convolution.zero - 128, np.int8)
        given = [rows, self.weight_name, convolution.scale, convolution.weight_scale, activations_zero, zero]
        if convolution.bias is not None:
            given.append(self._constant("bias", convolution.bias, np.float32))
        product = self._op("MatMulIntegerToFloat", "product", *given, domain=_MICROSOFT)
        self.nodes.append(helper.make_node("Transpose", [product], list(convolution.last.output), perm=[0, 2, 1]))

    def _joined(self, rows: str, zero: str, convolution: _Convolution, taps: int) -> str:
        """Each row with its neighbours at the taps, [1, time, taps * inputs]; beyond the ends are zeros."""
        step, (before, behind) = convolution.attributes["dilations"][0], convolution.attributes["pads"]
        pads, axis = (
            self._constant("pads", [0, before, 0, 0, behind, 0], np.int64),
            self._constant("axis", [1], np.int64),
        )
        padded = self._op("Pad", "padded", rows, pads, zero)
        reached = []
        for tap in range(taps):
            left = (taps - 1 - tap) * step
            begin = self._constant(f"begin{tap}", [tap * step], np.int64)
            end = self._constant(f"end{tap}", [-left or _TO_END], np.int64)
            reached.append(self._op("Slice", f"tap{tap}", padded, begin, end, axis))
        return self._op("Concat", "rows", *reached, axis=2)

    def _op(self, kind: str, part: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [f"{self._name}/{part}"], **attributes))
        return f"{self._name}/{part}"

    def _constant(self, part: str, value: Any, kind: type[np.generic]) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value, kind), f"{self._name}/{part}"))
        return f"{self._name}/{part}"

    def _outside(self, part: str, shape: Sequence[int]) -> str:
        """A matrix of signed bytes that the session is given."""
        tensor = TensorProto(name=f"{self._name}/{part}", data_type=TensorProto.INT8, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="memory")
        self.constants.append(tensor)
        return str(tensor.name)


def _needed(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that lead to the outputs, in order, and every name that they use."""
    used, kept = set(outputs), []
    for node in reversed(nodes):
        if used.intersection(node.output):
            kept.append(node)
            used.update(node.input)
    return kept[::-1], used
