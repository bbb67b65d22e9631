"""The parts both Whisper graphs are made of: linear layers (float or int8), norms, feed-forward.

Knows the checkpoint's names and the operators; knows no attention and no files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.whisper.checkpoint import Checkpoint
from backends.whisper.config import ModelDimensions
from backends.whisper.onnx.graph import GraphWriter

Floats = NDArray[np.float32]
_ONE = np.float32(1)


@dataclass(frozen=True, slots=True)
class GraphConfig:
    """How a graph is built.

    weights: "float32", "float16" or "int8" (weights in bytes, activations quantised on the fly); wide, narrow: how the
    encoder and the decoder multiply by int8 weights: "rows-8" or "rows-7" (one scale per output channel and per row of
    activations, for weights of 8 or 7 bits) or "blocks-8" (scales per block of inputs); `products` finds out which of
    them this processor computes right. static: fixed shapes for DirectML, with a cache of `cache` positions and `batch`
    rows.
    """

    weights: str = "float32"
    wide: str = "rows-8"
    narrow: str = "blocks-8"
    static: bool = False
    cache: int = 0
    batch: int = 1
    encoder_apart: bool = False

    @property
    def encoder(self) -> GraphConfig:
        """The same for the encoder's graphs."""
        return replace(self, static=True, weights="float32") if self.encoder_apart else self

    @property
    def element(self) -> type[np.floating[Any]]:
        return np.float16 if self.weights == "float16" else np.float32


def quantise(weight: Floats, bits: int) -> tuple[NDArray[np.int8], Floats]:
    """Symmetric int8 per output channel; weight [inputs, outputs] -> (int8 of the same shape, scale [outputs])."""
    top = float(2 ** (bits - 1) - 1)
    scale = np.maximum(np.abs(weight).max(axis=0), np.finfo(np.float32).tiny) / top
    return np.clip(np.rint(weight / scale), -top, top).astype(np.int8), scale.astype(np.float32)


def quantise_blocks(weight: Floats, block: int, steps: Floats | None = None) -> tuple[NDArray[np.uint8], Floats]:
    """Symmetric 8 bits (zero at 128) per output channel and block of inputs, as MatMulNBits wants them.

    weight [inputs, outputs] -> (bytes [outputs, blocks, block], scales [outputs, blocks]); the last block is padded.
    steps [outputs]: of a weight that is stored in int8 with a scale per output channel, whose bytes are then kept as
    they are.
    """
    inputs, outputs = weight.shape
    blocks = -(-inputs // block)
    padded = np.zeros((outputs, blocks * block), np.float32)
    padded[:, :inputs] = weight.T
    parts = padded.reshape(outputs, blocks, block)
    scale = np.maximum(np.abs(parts).max(axis=-1, keepdims=True), np.finfo(np.float32).tiny) / 127
    if steps is not None:
        scale = np.broadcast_to(steps[:, None, None], scale.shape)
    whole = (np.clip(np.rint(parts / scale), -127, 127) + 128).astype(np.uint8)
    return whole, scale[..., 0].astype(np.float32)


def block_size(inputs: int) -> int:
    """The largest block up to 128 that divides the inputs, at least 16 (then the last block is padded)."""
    return next((size for size in (128, 64, 32) if inputs % size == 0), 16)


class Layers:
    """Emits named pieces of the checkpoint into a graph."""

    def __init__(
        self, graph: GraphWriter, checkpoint: Checkpoint, dims: ModelDimensions, form: GraphConfig, *, wide: bool
    ) -> None:
        """wide: products see many rows (the encoder), not one per sequence (the decoder)."""
        self.graph, self.checkpoint, self.dims, self.form, self.wide = graph, checkpoint, dims, form, wide
        self._quantised: dict[str, tuple[str, str, str, str]] = {}

    def norm(self, value: str, prefix: str) -> str:
        weights = [self.graph.constant(self.checkpoint[f"{prefix}.{part}"]) for part in ("weight", "bias")]
        return self.graph.op("LayerNormalization", value, *weights, axis=-1, epsilon=1e-5)

    def linear(self, value: str, *prefixes: str, scale: np.float32 = _ONE) -> str:
        """(x W^T + b) scale; several prefixes share one product and their outputs lie side by side. A missing bias is
        zero."""
        weight = np.concatenate([self.checkpoint[f"{prefix}.weight"] for prefix in prefixes]).T
        bias = np.concatenate([self._bias(prefix) for prefix in prefixes]) * scale
        stored = [self.checkpoint.row_steps(f"{prefix}.weight") for prefix in prefixes]
        known = [steps * scale for steps in stored if steps is not None]
        steps = np.concatenate(known) if len(known) == len(stored) else None
        return self.product(value, weight * scale, bias, steps)

    def product(self, value: str, weight: Floats, bias: Floats | None, steps: Floats | None = None) -> str:
        """weight [inputs, outputs]. In int8, every row of `value` has its own scale, so rows do not depend on each
        other.

        steps [outputs]: of a weight that is stored in int8. The row product finds them again in the largest values."""
        graph = self.graph
        kind, _, bits = (self.form.wide if self.wide else self.form.narrow).partition("-")
        if self.form.weights != "int8":
            result = graph.op("MatMul", value, graph.constant(weight))
        elif kind == "rows":
            result = self._rows_product(value, weight, int(bits))
        else:
            return self._blocks_product(value, weight, bias, steps)
        return result if bias is None else graph.op("Add", result, graph.constant(bias))

    def _rows_product(self, value: str, weight: Floats, bits: int) -> str:
        """Quantise each row to its largest magnitude, multiply in integers, scale back."""
        graph = self.graph
        whole, scale = quantise(weight, bits)
        if value not in self._quantised:
            largest = graph.op("ReduceMax", graph.op("Abs", value), axes=[-1], keepdims=1)
            largest = graph.op("Max", largest, graph.constant(np.array(1e-30, np.float32)))
            step, zero = graph.constant(np.array(1 / 127, np.float32)), graph.constant(np.array(128, np.uint8))
            row = graph.op("QuantizeLinear", graph.op("Div", value, largest), step, zero)
            self._quantised[value] = (row, largest, step, zero)
        row, largest, step, zero = self._quantised[value]
        zeros = graph.constant(np.zeros(len(scale), np.int8))
        inputs = [row, graph.constant(whole), step, graph.constant(scale), zero, zeros]
        return graph.op("Mul", graph.op("MatMulIntegerToFloat", *inputs, domain="ms"), largest)

    def _blocks_product(self, value: str, weight: Floats, bias: Floats | None, steps: Floats | None) -> str:
        """One fused operator that quantises rows block by block; made for few rows."""
        graph, (inputs, outputs) = self.graph, weight.shape
        block = block_size(inputs)
        whole, scale = quantise_blocks(weight, block, steps)
        given = [graph.constant(whole), graph.constant(scale)]
        if bias is not None:
            given += ["", "", graph.constant(bias)]
        sizes = {"K": inputs, "N": outputs, "bits": 8, "block_size": block, "accuracy_level": 4}
        return graph.op("MatMulNBits", value, *given, domain="ms", **sizes)

    def _bias(self, prefix: str) -> Floats:
        name = f"{prefix}.bias"
        return self.checkpoint[name] if name in self.checkpoint else np.zeros(self.dims.width, np.float32)

    def activation(self, value: str) -> str:
        """gelu is the exact one, with the error function."""
        if self.dims.activation == "relu":
            return self.graph.op("Relu", value)
        return self.graph.op("Gelu", value, domain="ms")

    def feed_forward(self, value: str, prefix: str) -> str:
        hidden = self.norm(value, f"{prefix}.final_layer_norm")
        hidden = self.activation(self.linear(hidden, f"{prefix}.fc1"))
        return self.graph.op("Add", value, self.linear(hidden, f"{prefix}.fc2"))

    def split_heads(self, value: str, heads: int, *, across: bool = False) -> str:
        """[batch, time, width] -> [batch, heads, time, head width], or [batch, heads, head width, time]."""
        shaped = self.graph.op("Reshape", value, self.graph.shape(0, 0, heads, self.dims.width // heads))
        return self.graph.op("Transpose", shaped, perm=[0, 2, 3, 1] if across else [0, 2, 1, 3])

    def join_heads(self, value: str) -> str:
        """[batch, heads, time, head width] -> [batch, time, width]."""
        turned = self.graph.op("Transpose", value, perm=[0, 2, 1, 3])
        return self.graph.op("Reshape", turned, self.graph.shape(0, 0, self.dims.width))
