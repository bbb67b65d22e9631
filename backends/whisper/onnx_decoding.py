"""Token sequences in progress on ONNX Runtime: how caches grow (dynamic graph) or are filled (static graph).

Knows the decoder graph's inputs and outputs; knows no window, no rule and no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from backends.interface import ModelUnavailable, OutOfMemory
from backends.whisper.checkpoint import Checkpoint
from backends.whisper.config import Dims
from backends.whisper.graphs import cache_shapes
from backends.whisper.layers import Form
from backends.whisper.network import Floats, Tokens

_MASKED = -1e4  # far below any score, still a float16
_NO_ROOM = ("out of memory", "bad_alloc", "8007000e", "failed to allocate")


@dataclass(frozen=True, slots=True)
class OnnxMemory:
    """Cross keys and values by input name, on the session's device, batch of one."""

    tensors: dict[str, onnxruntime.OrtValue]


@dataclass(frozen=True, slots=True)
class Target:
    """Where sessions run: provider name with its options, and the device name of bound tensors."""

    provider: str
    options: dict[str, str]
    memory: str
    device_id: int = 0


class DecoderSession:
    """The decoder graph on its device, with the embedding table it leaves outside."""

    def __init__(
        self, session: onnxruntime.InferenceSession, target: Target, checkpoint: Checkpoint, dims: Dims, form: Form
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

    def value(self, array: NDArray[Any]) -> onnxruntime.OrtValue:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array, self.target.memory, self.target.device_id)

    def gather(self, memories: Sequence[OnnxMemory]) -> dict[str, onnxruntime.OrtValue]:
        """Cross keys and values of several windows as one batch."""
        if len(memories) == 1:
            return dict(memories[0].tensors)
        names = list(memories[0].tensors)
        return {name: self.value(np.concatenate([memory.tensors[name].numpy() for memory in memories])) for name in names}

    def empty_caches(self, batch: int, length: int) -> dict[str, onnxruntime.OrtValue]:
        caches = {}
        for layer in range(self.dims.decoder_layers):
            shapes = cache_shapes(self.dims, self.form, batch, length)
            for name, shape in zip(("key", "value"), shapes, strict=True):
                caches[f"{name}.{layer}"] = self.value(np.zeros([int(size) for size in shape], self.element))
        return caches


def run_bound(session: onnxruntime.InferenceSession, binding: Any) -> None:
    try:
        session.run_with_iobinding(binding)
    except Exception as error:  # onnxruntime's own have no base class but this
        raise engine_error(error) from error


def engine_error(error: Exception, remedy: str = "") -> Exception:
    """onnxruntime tells of exhausted memory in words only. remedy: what helps against anything else."""
    text = str(error)
    if isinstance(error, MemoryError) or any(mark in text.lower() for mark in _NO_ROOM):
        return OutOfMemory(f"no memory for Whisper: {text[:300]}")
    return ModelUnavailable(f"onnxruntime refused Whisper's graph: {text[:500]}{remedy}")


class DynamicDecoding:
    """Caches grow by what is fed. Rows may be padded at the left; padded positions are masked and not counted."""

    def __init__(self, device: DecoderSession, memories: Sequence[OnnxMemory], padding: list[int]) -> None:
        self._device = device
        self._padding = np.array(padding, np.int64)
        self._length = 0
        self._cross = device.gather(memories)
        self._past = device.empty_caches(len(padding), 0)
        self.queries: dict[int, Floats] = {}
        self._binding = self._bind_cross()

    def _bind_cross(self) -> Any:
        binding = self._device.session.io_binding()
        for name, value in self._cross.items():
            binding.bind_ortvalue_input(name, value)
        return binding

    def feed(self, tokens: Tokens, keep: int = 0, query_layers: Sequence[int] = ()) -> Floats:
        device, new = self._device, tokens.shape[1]
        positions = np.arange(self._length, self._length + new)[None, :] - self._padding[:, None]
        binding = self._binding
        binding.clear_binding_outputs()
        binding.bind_ortvalue_input("embedded", device.value(device.embed(tokens, np.maximum(positions, 0))))
        binding.bind_ortvalue_input("bias", device.value(self._bias(new)))
        binding.bind_ortvalue_input("keep", device.value(np.array([keep], np.int64)))
        for name, value in self._past.items():
            binding.bind_ortvalue_input(f"past_{name}", value)
        outputs = ["logits", *(f"present_{name}" for name in self._past), *(f"cross_query.{layer}" for layer in query_layers)]
        for name in outputs:
            binding.bind_output(name, "cpu")
        run_bound(device.session, binding)
        logits, *values = binding.get_outputs()
        self._past = dict(zip(self._past, values[: len(self._past)], strict=True))
        self.queries = {layer: value.numpy()[0] for layer, value in zip(query_layers, values[len(self._past) :], strict=True)}
        self._length += new
        result: Floats = logits.numpy()
        return result

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
                values[name] = self._device.value(np.ascontiguousarray(values[name].numpy()[index]))
        self._binding = self._bind_cross()


class StaticDecoding:
    """One token a call into caches of fixed length that stay on the device. Rows beyond the batch are unused."""

    def __init__(self, device: DecoderSession, memories: Sequence[OnnxMemory], padding: list[int]) -> None:
        self._device, form = device, device.form
        self._rows = list(range(len(memories)))
        self._padding = np.array([*padding, *[0] * (form.batch - len(padding))], np.int64)
        self._length = 0
        filled = [*memories, *[memories[0]] * (form.batch - len(memories))]
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
        binding = device.session.io_binding()
        positions = np.maximum(position - self._padding, 0)
        inputs = {
            "embedded": device.embed(full[:, None], positions[:, None]),
            "bias": self._bias(),
            "write": write.reshape(1, 1, -1, 1),
            "write_key": write.reshape(1, 1, 1, -1),
        }
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, device.value(np.ascontiguousarray(array)))
        for name, value in self._cross.items():
            binding.bind_ortvalue_input(name, value)
        past, present = self._caches
        for name, value in past.items():
            binding.bind_ortvalue_input(f"past_{name}", value)
            binding.bind_ortvalue_output(f"present_{name}", present[name])
        wanted = ["logits", *(f"cross_query.{layer}" for layer in query_layers)]
        for name in wanted:
            binding.bind_output(name, "cpu")
        run_bound(device.session, binding)
        self._caches.reverse()
        self._length += 1
        names = [*(f"present_{name}" for name in past), *wanted]
        found = dict(zip(names, binding.get_outputs(), strict=True))
        self.queries = {layer: found[f"cross_query.{layer}"].numpy()[0].astype(np.float32) for layer in query_layers}
        logits: Floats = found["logits"].numpy()[self._rows].astype(np.float32)
        return logits

    def _bias(self) -> NDArray[Any]:
        """0 at the positions filled so far (this step's included): [batch, 1, 1, cache]."""
        place = np.arange(self._device.form.cache)[None, :]
        allowed = (place <= self._length) & (place >= self._padding[:, None])
        return np.where(allowed, 0.0, _MASKED).astype(self._device.form.element)[:, None, None, :]

    def select(self, rows: Sequence[int]) -> None:
        """The graph keeps its size; the other rows are only no longer asked for."""
        self._rows = [self._rows[row] for row in rows]
