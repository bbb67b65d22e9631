"""One run of an ONNX Runtime session over bound values, and the owner of every one of them.

onnxruntime below 1.31 keeps no reference to what is bound to an input, and what it gives as outputs are places in the
binding, which its next run writes over. So a binding here serves one run: it holds what is bound until that run is
over, and is never used again, which leaves its outputs to whoever asked for them. Knows no graph and no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.onnx_runtime import onnxruntime
from backends.whisper.onnx.faults import engine_error


@dataclass(frozen=True, slots=True)
class Target:
    """Where sessions run: provider name with its options, and onnxruntime's name of the device of bound tensors.

    plugins: the devices of a provider that is loaded as a library (`backends.windows_ml`), which takes the encoder
    only.
    """

    provider: str
    options: dict[str, str]
    device: str
    device_id: int = 0
    plugins: tuple[Any, ...] = ()

    def value(self, array: NDArray[Any]) -> onnxruntime.OrtValue:
        """The array on the device. On the CPU the value shares the array's memory and holds the array."""
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self.device, self.device_id)


class BoundRun:
    """A run in the making: bind inputs and outputs, then call `run`, once."""

    def __init__(self, session: onnxruntime.InferenceSession, target: Target) -> None:
        self._session, self._target = session, target
        self._binding = session.io_binding()
        self._inputs: list[onnxruntime.OrtValue] = []
        self._outputs: dict[str, onnxruntime.OrtValue | None] = {}

    def input(self, name: str, value: onnxruntime.OrtValue | NDArray[Any]) -> None:
        """Bind a value, or an array that is brought to the device."""
        held = self._target.value(value) if isinstance(value, np.ndarray) else value
        self._inputs.append(held)
        self._binding.bind_ortvalue_input(name, held)

    def output(self, name: str, *, into: onnxruntime.OrtValue | None = None, device: str = "") -> None:
        """Ask for an output: written into a value of its shape, or into new memory on the target's device or the one
        that is named."""
        self._outputs[name] = into
        if into is not None:
            self._binding.bind_ortvalue_output(name, into)
        else:
            self._binding.bind_output(
                name,
                device or self._target.device,
                0 if device == "cpu" else self._target.device_id,
            )

    def run(self) -> dict[str, onnxruntime.OrtValue]:
        """Compute; the outputs by name, in the order they were asked for. Raises what `engine_error` makes of a
        failure."""
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # onnxruntime's own have no base class but this
            raise engine_error(error) from error
        given = self._binding.get_outputs()
        # Outputs may keep the binding alive; the inputs, above all the caches before these, must not live as long.
        self._binding.clear_binding_inputs()
        self._inputs.clear()
        return {
            name: value if into is None else into
            for (name, into), value in zip(self._outputs.items(), given, strict=True)
        }
