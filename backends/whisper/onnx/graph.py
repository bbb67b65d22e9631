"""A small writer of ONNX graphs whose weights go to a file beside the graph as they are made, so memory stays flat.

Knows operators and files; knows nothing of Whisper.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

OPSET = 17
IR_VERSION = 8
_ALIGNMENT = 4096  # bytes; page-aligned tensors can be mapped
_INLINE = 1024  # bytes; smaller constants stay in the graph, where shape inference sees them

Shape = Sequence[int | str]


class GraphWriter:
    """Nodes in order of execution, constants streamed to `<name>.data`."""

    def __init__(self, folder: Path, name: str, element: type[np.floating[Any]] = np.float32) -> None:
        self.folder, self.name, self.element = folder, name, np.dtype(element)
        self.float_type = helper.np_dtype_to_tensor_dtype(self.element)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._data = (folder / f"{name}.data").open("wb")
        self._count = 0

    def input(self, name: str, shape: Shape, type_: int | None = None) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, type_ or self.float_type, list(shape)))
        return name

    def output(self, value: str, name: str, shape: Shape) -> None:
        """Give `value` to the outside as `name`."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, self.float_type, list(shape)))

    def constant(self, array: NDArray[Any], name: str = "") -> str:
        """A weight; floats take the graph's element type."""
        if array.dtype.kind == "f":
            array = array.astype(self.element)
        name = name or self._fresh("constant")
        array = np.ascontiguousarray(array)
        if array.nbytes <= _INLINE:
            self._constants[name] = onnx.numpy_helper.from_array(array, name)
        else:
            self._constants[name] = self._external(array, name)
        return name

    def _external(self, array: NDArray[Any], name: str) -> onnx.TensorProto:
        self._data.write(b"\0" * (-self._data.tell() % _ALIGNMENT))
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        location = {"location": f"{self.name}.data", "offset": str(self._data.tell()), "length": str(array.nbytes)}
        for key, value in location.items():
            tensor.external_data.add(key=key, value=value)
        self._data.write(array.tobytes())
        return tensor

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """One node with one output."""
        return self.ops(kind, *inputs, outputs=1, domain=domain, **attributes)[0]

    def ops(self, kind: str, *inputs: str, outputs: int, domain: str = "", **attributes: Any) -> list[str]:
        """One node with several outputs. domain "ms" is com.microsoft."""
        names = [self._fresh(kind.lower()) for _ in range(outputs)]
        full = "com.microsoft" if domain == "ms" else domain
        self._nodes.append(helper.make_node(kind, list(inputs), names, domain=full, **attributes))
        return names

    def shape(self, *sizes: int) -> str:
        """A constant shape for Reshape; 0 keeps a dimension."""
        return self.constant(np.array(sizes, dtype=np.int64))

    def save(self) -> None:
        """Write `<name>.onnx`."""
        self._data.close()
        graph = helper.make_graph(self._nodes, self.name, self._inputs, self._outputs, list(self._constants.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="speech-gateway")
        (self.folder / f"{self.name}.onnx").write_bytes(model.SerializeToString())

    def _fresh(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count}"
