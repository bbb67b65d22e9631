"""Cuts a speaker encoder's graph in two at its pooling.

The first part, the convolutions, costs nearly everything and is the same for all speakers of a block; the second
makes an embedding of the pooled statistics. Knows the names that exports of pyannote's ResNet give their tensors.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from backends.interface import ModelUnavailable

_INPUT, _FEATURES = "fbank", "/resnet/pool/Reshape_output_0"
_POOLED, _OUTPUT = "/resnet/pool/stats_pool/Squeeze_output_0", "embedding"


def split_encoder(path: Path) -> tuple[bytes, bytes] | None:
    """Both parts as ONNX; None for a graph with other names. Raises ModelUnavailable for a file that cannot be read."""
    import onnx
    from onnx.utils import Extractor

    model = _as_onnx(path)
    made = {name for node in model.graph.node for name in node.output}
    if not {_FEATURES, _POOLED, _OUTPUT} <= made:
        return None
    extractor = Extractor(onnx.shape_inference.infer_shapes(model))
    first = extractor.extract_model([_INPUT], [_FEATURES])
    second = extractor.extract_model([_POOLED], [_OUTPUT])
    return first.SerializeToString(), second.SerializeToString()


def _as_onnx(path: Path) -> Any:
    """The graph of a file, which may be in ORT's own format: that can only be cut once it is ONNX again."""
    import onnx

    try:
        if path.suffix != ".ort":
            return onnx.load(str(path))
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "encoder.onnx"
            _convert(path, plain)
            return onnx.load(str(plain))
    except Exception as error:  # onnxruntime's exceptions have no common base of their own
        raise ModelUnavailable(f"{path.name} cannot be read: {error}") from error


def _convert(path: Path, target: Path) -> None:
    """ORT's format to ONNX, without any optimisation, which would be this machine's."""
    from backends.onnx_runtime import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    options.add_session_config_entry("session.save_model_format", "ONNX")
    onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
