"""How many bits int8 weights may have on this processor.

Without the VNNI instructions, x86 sums pairs of byte products in 16 bits, which saturates for full-range weights. Rather
than ask the processor its name, a product whose exact sum is known is computed once.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

_SIZE = 64


@lru_cache(maxsize=1)
def int8_bits() -> int:
    """8 if unsigned x signed byte products are exact at full range, else 7."""
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["left", "right"], ["product"])],
        "probe",
        [
            helper.make_tensor_value_info("left", TensorProto.UINT8, [1, _SIZE]),
            helper.make_tensor_value_info("right", TensorProto.INT8, [_SIZE, _SIZE]),
        ],
        [helper.make_tensor_value_info("product", TensorProto.INT32, [1, _SIZE])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    left, right = np.full((1, _SIZE), 255, np.uint8), np.full((_SIZE, _SIZE), 127, np.int8)
    product = session.run(None, {"left": left, "right": right})[0]
    return 8 if bool((product == 255 * 127 * _SIZE).all()) else 7
