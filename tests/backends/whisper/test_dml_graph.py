"""Every node of the static graphs is one that the DirectML provider documents, with fixed shapes throughout.

The table is the part in use of "Operators implemented by DmlExecutionProvider" in docs/OperatorKernels.md of
microsoft/onnxruntime (commit 001d12d2, every row compared on 21 November 2026): the newest version of the kernel not
above our opset, and which of the element types it takes may occur here.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, shape_inference

from backends.whisper.checkpoint import Checkpoint
from backends.whisper.config import read_dims
from backends.whisper.onnx.graph import OPSET
from backends.whisper.onnx.graphs import write_decoder, write_encoder
from backends.whisper.onnx.layers import GraphConfig
from tests.backends.whisper.checkpoints import Reference

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16}
WITH_BOOL = {*FLOATS, TensorProto.BOOL}
WITH_SHAPES = {*FLOATS, TensorProto.INT64}  # data of the floats, a constant shape beside them

DOCUMENTED = {
    ("", "Add"): (14, FLOATS),
    ("", "Conv"): (11, FLOATS),
    ("", "Identity"): (16, FLOATS),
    ("", "LayerNormalization"): (17, FLOATS),
    ("", "MatMul"): (13, FLOATS),
    ("", "Mul"): (14, FLOATS),
    ("", "Relu"): (14, FLOATS),
    ("", "Reshape"): (14, WITH_SHAPES),
    ("", "Softmax"): (13, FLOATS),
    ("", "Split"): (13, WITH_SHAPES),
    ("", "Transpose"): (13, FLOATS),
    ("", "Where"): (16, WITH_BOOL),
    ("com.microsoft", "Gelu"): (1, FLOATS),
}


@pytest.fixture(scope="module", params=["float32", "float16"])
def graphs(
    request: pytest.FixtureRequest, multilingual: Reference, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    folder = tmp_path_factory.mktemp("static")
    dims = read_dims(multilingual.folder)
    form = GraphConfig(weights=request.param, static=True, cache=dims.target_positions, batch=2)
    checkpoint = Checkpoint(multilingual.folder)
    write_encoder(folder, checkpoint, dims, form)
    write_decoder(folder, checkpoint, dims, form)
    return [folder / "encoder.onnx", folder / "decoder.onnx"]


def value_types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    """Type and shape of every value that is no constant. Inference knows only standard operators and would stop at the
    first Gelu, so a Relu, which changes neither, stands in for it."""
    standard = onnx.ModelProto()
    standard.CopyFrom(model)
    for node in standard.graph.node:
        if node.domain == "com.microsoft":
            assert node.op_type == "Gelu"
            node.op_type, node.domain = "Relu", ""
    inferred = shape_inference.infer_shapes(standard, strict_mode=True, data_prop=True).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    return {value.name: value.type.tensor_type for value in values}


def test_every_operator_is_documented(graphs: list[Path]) -> None:
    for path in graphs:
        model = onnx.load(path, load_external_data=False)
        assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", OPSET), ("com.microsoft", 1)}
        unknown = {(node.domain, node.op_type) for node in model.graph.node} - set(DOCUMENTED)
        assert not unknown
        for node in model.graph.node:
            since = onnx.defs.get_schema(node.op_type, OPSET, node.domain).since_version if not node.domain else 1
            assert DOCUMENTED[node.domain, node.op_type][0] == since, node.op_type


def test_every_tensor_has_a_documented_type(graphs: list[Path]) -> None:
    for path in graphs:
        model = onnx.load(path, load_external_data=False)
        types = {name: value.elem_type for name, value in value_types(model).items()}
        types |= {constant.name: constant.data_type for constant in model.graph.initializer}
        for node in model.graph.node:
            allowed = DOCUMENTED[node.domain, node.op_type][1]
            found = {types[name] for name in [*node.input, *node.output] if name}
            assert found <= allowed, (node.op_type, found)


def test_whole_numbers_are_constants_only(graphs: list[Path]) -> None:
    """Shapes and sizes that were computed would be computed on the processor."""
    for path in graphs:
        model = onnx.load(path, load_external_data=False)
        types = {name: value.elem_type for name, value in value_types(model).items()}
        assert TensorProto.INT64 not in types.values()


def test_no_value_has_an_open_dimension(graphs: list[Path]) -> None:
    for path in graphs:
        model = onnx.load(path, load_external_data=False)
        types = value_types(model)
        for name in [value.name for value in model.graph.input] + [
            name for node in model.graph.node for name in node.output
        ]:
            assert types[name].HasField("shape"), name
            assert all(dim.HasField("dim_value") and dim.dim_value > 0 for dim in types[name].shape.dim), name


def test_the_caches_go_in_and_out_in_the_same_shape(graphs: list[Path]) -> None:
    model = onnx.load(graphs[1], load_external_data=False)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*model.graph.input, *model.graph.output]
    }
    layers = [name.rpartition(".")[2] for name in shapes if name.startswith("past_key")]
    assert layers
    for layer in layers:
        for kind in ("key", "value"):
            assert shapes[f"past_{kind}.{layer}"] == shapes[f"present_{kind}.{layer}"]


def test_the_graphs_pass_the_checker(graphs: list[Path]) -> None:
    for path in graphs:
        onnx.checker.check_model(str(path))
