"""onnxruntime sessions on the CPU, for the engines that use it as it is.

Owns the session options. Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.interface import ModelUnavailable


def open_session(
    model: bytes, threads: int, name: str = "the voice", weights: Mapping[str, NDArray[np.generic]] | None = None
) -> Any:
    """A session of `model` (a serialised ONNX graph, or ORT's own format) on `threads` CPU threads.

    name: of it, for people; weights: by name, those that the graph leaves outside. Raises ModelUnavailable.
    """
    from backends.onnx_runtime import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = max(1, threads), 1
    options.log_severity_level = 3
    # Threads that wait for work in a loop take the processor from the other workers of this machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if weights:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(weight) for weight in weights.values()]
        options.add_external_initializers(list(weights), values)
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base of their own
        raise ModelUnavailable(f"onnxruntime cannot load {name}: {error}") from error
