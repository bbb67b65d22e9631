"""What onnxruntime says in words is told apart: no memory, a lost device, a refused graph."""

from __future__ import annotations

import pytest
from onnxruntime.capi import onnxruntime_pybind11_state

from backends.interface import DeviceLost, ModelUnavailable, OutOfMemory
from backends.memory import is_out_of_memory
from backends.whisper.onnx.binding import BoundRun, Target

REMOVED = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. Name:'conv_1' "
    "Status Message: "
    "DmlExecutionProvider/src/DmlCommandQueue.cpp(71) Exception(1) tid(1a4) 887A0005 The GPU device instance "
    "has been suspended. "
    "Use GetDeviceRemovedReason to determine the appropriate action."
)


class Binding:
    def bind_output(self, *_: object) -> None:
        """Nothing is bound here."""


class Session:
    """Fails with onnxruntime's own exceptions, which derive from Exception itself."""

    def __init__(self, text: str) -> None:
        self.text = text

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, binding: Binding) -> None:
        raise onnxruntime_pybind11_state.RuntimeException(self.text)


def failed_with(text: str) -> Exception:
    run = BoundRun(Session(text), Target("DmlExecutionProvider", {}, "dml"))  # type: ignore[arg-type]
    run.output("logits")
    with pytest.raises((DeviceLost, ModelUnavailable, OutOfMemory)) as caught:
        run.run()
    return caught.value


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Failed to allocate memory for requested buffer", OutOfMemory),
        ("std::bad_alloc", OutOfMemory),
        ("8007000E Not enough memory resources are available", OutOfMemory),
        ("no such kernel", ModelUnavailable),
    ],
)
def test_errors_of_the_runtime_are_told_apart(text: str, kind: type[Exception]) -> None:
    assert type(failed_with(text)) is kind
    assert text in str(failed_with(text))


@pytest.mark.parametrize("code", ["887A0005", "887A0006", "887A0007", "887A0020", "887a0006"])
def test_a_lost_device_is_a_lost_worker_with_advice(code: str) -> None:
    error = failed_with(REMOVED.replace("887A0005", code))
    assert isinstance(error, DeviceLost)
    assert error.to_event().kind == "worker_lost"
    assert code.upper() in error.message
    assert "driver" in error.message
    assert 'device = "cpu"' in error.message
    assert not is_out_of_memory(error), "the worker would try the job again on a device that is gone"


def test_the_worker_reads_the_runtime_own_exceptions_too() -> None:
    assert is_out_of_memory(onnxruntime_pybind11_state.RuntimeException("std::bad_alloc"))
    assert not is_out_of_memory(onnxruntime_pybind11_state.RuntimeException("no such kernel"))


def test_memory_that_python_cannot_get_is_memory() -> None:
    from backends.whisper.onnx.faults import engine_error

    assert isinstance(engine_error(MemoryError("array")), OutOfMemory)
