"""Token sequences in progress on ONNX Runtime: how caches grow (dynamic graph) or are filled (static graph).

Knows the decoder graph's inputs and outputs; knows no window, no rule and no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.onnx_runtime import onnxruntime
from backends.whisper.checkpoint import Checkpoint
from backends.whisper.config import ModelDimensions
from backends.whisper.network import Floats, Tokens
from backends.whisper.onnx.binding import BoundRun, Target
from backends.whisper.onnx.graphs import cache_shapes
from backends.whisper.onnx.layers import GraphConfig

_MASKED = -1e4  # far below any score, still a float16


@dataclass(frozen=True, slots=True)
class OnnxEncoderOutput:
    """Cross keys and values by input name, on the session's device, batch of one."""

    tensors: dict[str, onnxruntime.OrtValue]


class DecoderSession:
    """The decoder graph on its device, with the embedding table it leaves outside."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        target: Target,
        checkpoint: Checkpoint,
        dims: ModelDimensions,
        form: GraphConfig,
    ) -> None:
        self.session, self.target, self.dims, self.form = session, target, dims, form
        self.element = np.dtype(form.element)
        self._checkpoint = checkpoint
        self._positions = checkpoint["decoder.embed_positions.weight"]

    def embed(self, tokens: Tokens, positions: NDArray[np.int64]) -> NDArray[Any]:
        """Token and position embeddings [batch, new, width]; only the rows in use are read from the file."""
        table = self._checkpoint.rows("decoder.embed_tokens.weight", tokens)
        embedded: NDArray[Any] = (table + self._positions[positions]).astype(self.element)
        return embedded

    def gather(self, encoder_outputs: Sequence[OnnxEncoderOutput]) -> dict[str, onnxruntime.OrtValue]:
        """Cross keys and values of several windows as one batch."""
        if len(encoder_outputs) == 1:
            return dict(encoder_outputs[0].tensors)
        names = list(encoder_outputs[0].tensors)
        together = {
            name: np.concatenate([encoder_output.tensors[name].numpy() for encoder_output in encoder_outputs])
            for name in names
        }
        return {name: self.target.value(array) for name, array in together.items()}

    def empty_caches(self, batch: int, length: int) -> dict[str, onnxruntime.OrtValue]:
        caches = {}
        for layer in range(self.dims.decoder_layers):
            shapes = cache_shapes(self.dims, self.form, batch, length)
            for name, shape in zip(("key", "value"), shapes, strict=True):
                caches[f"{name}.{layer}"] = self.target.value(np.zeros([int(size) for size in shape], self.element))
        return caches


def host(value: onnxruntime.OrtValue) -> NDArray[Any]:
    """A copy in memory of our own: what an output shares may not live longer than the output."""
    return np.array(value.numpy())


class DynamicDecoding:
    """Caches grow by what is fed. Rows may be padded at the left; padded positions are masked and not counted."""

    def __init__(
        self, device: DecoderSession, encoder_outputs: Sequence[OnnxEncoderOutput], padding: list[int]
    ) -> None:
        self._device = device
        self._padding = np.array(padding, np.int64)
        self._length = 0
        self._cross = device.gather(encoder_outputs)
        self._past = device.empty_caches(len(padding), 0)
        self.queries: dict[int, Floats] = {}

    def feed(self, tokens: Tokens, keep: int = 0, query_layers: Sequence[int] = ()) -> Floats:
        device, new = self._device, tokens.shape[1]
        positions = np.arange(self._length, self._length + new)[None, :] - self._padding[:, None]
        run = BoundRun(device.session, device.target)
        run.input("embedded", device.embed(tokens, np.maximum(positions, 0)))
        run.input("bias", self._bias(new))
        run.input("keep", np.array([keep], np.int64))
        for name, value in (*self._cross.items(), *((f"past_{name}", value) for name, value in self._past.items())):
            run.input(name, value)
        for name in (
            "logits",
            *(f"present_{name}" for name in self._past),
            *(f"cross_query.{layer}" for layer in query_layers),
        ):
            run.output(name, device="cpu")
        outputs = run.run()
        self._past = {name: outputs[f"present_{name}"] for name in self._past}
        self.queries = {layer: host(outputs[f"cross_query.{layer}"])[0] for layer in query_layers}
        self._length += new
        return host(outputs["logits"])

    def _bias(self, new: int) -> Floats:
        """0 where a new position may look, far below zero at the future and at padding: [batch, 1, new, total]."""
        total = self._length + new
        seen = np.arange(total)[None, None, :] <= (self._length + np.arange(new))[None, :, None]
        allowed = seen & (np.arange(total)[None, None, :] >= self._padding[:, None, None])
        return np.where(allowed, np.float32(0), np.float32(_MASKED))[:, None]

    def select(self, rows: Sequence[int]) -> None:
        index = list(rows)
        if index == list(range(len(self._padding))):
            return
        self._padding = self._padding[index]
        for values in (self._cross, self._past):
            for name in list(values):
                values[name] = self._device.target.value(values[name].numpy()[index])


class StaticDecoding:
    """One token a call into caches of fixed length that stay on the device. Rows beyond the batch are unused."""

    def __init__(
        self, device: DecoderSession, encoder_outputs: Sequence[OnnxEncoderOutput], padding: list[int]
    ) -> None:
        self._device, form = device, device.form
        self._rows = list(range(len(encoder_outputs)))
        self._padding = np.array([*padding, *[0] * (form.batch - len(padding))], np.int64)
        self._length = 0
        filled = [*encoder_outputs, *[encoder_outputs[0]] * (form.batch - len(encoder_outputs))]
        self._cross = device.gather(filled)
        # Two sets take turns as input and output of a step.
        self._caches = [device.empty_caches(form.batch, form.cache) for _ in range(2)]
        self.queries: dict[int, Floats] = {}

    def feed(self, tokens: Tokens, keep: int = 0, query_layers: Sequence[int] = ()) -> Floats:
        steps = [self._step(tokens[:, column], query_layers) for column in range(tokens.shape[1])]
        return np.concatenate(steps[keep:], axis=1)

    def _step(self, tokens: Tokens, query_layers: Sequence[int]) -> Floats:
        device, form, position = self._device, self._device.form, self._length
        full = np.zeros(form.batch, np.int64)
        full[self._rows] = tokens
        write = np.arange(form.cache) == position
        positions = np.maximum(position - self._padding, 0)
        run = BoundRun(device.session, device.target)
        run.input("embedded", device.embed(full[:, None], positions[:, None]))
        run.input("bias", self._bias())
        run.input("write", write.reshape(1, 1, -1, 1))
        run.input("write_key", write.reshape(1, 1, 1, -1))
        for name, value in self._cross.items():
            run.input(name, value)
        past, present = self._caches
        for name, value in past.items():
            run.input(f"past_{name}", value)
            run.output(f"present_{name}", into=present[name])
        for name in ("logits", *(f"cross_query.{layer}" for layer in query_layers)):
            run.output(name, device="cpu")
        outputs = run.run()
        self._caches.reverse()
        self._length += 1
        self.queries = {layer: host(outputs[f"cross_query.{layer}"])[0].astype(np.float32) for layer in query_layers}
        logits: Floats = host(outputs["logits"])[self._rows].astype(np.float32)
        return logits

    def _bias(self) -> NDArray[Any]:
        """0 at the positions filled so far (this step's included): [batch, 1, 1, cache]."""
        position = np.arange(self._device.form.cache)[None, :]
        allowed = (position <= self._length) & (position >= self._padding[:, None])
        return np.where(allowed, 0.0, _MASKED).astype(self._device.form.element)[:, None, None, :]

    def select(self, rows: Sequence[int]) -> None:
        """The graph keeps its size; the other rows are only no longer asked for."""
        self._rows = [self._rows[row] for row in rows]
