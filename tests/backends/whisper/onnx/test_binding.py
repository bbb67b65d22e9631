"""What is bound to a run lives until the run is over, and no binding runs twice: onnxruntime below 1.31 needs both."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from backends.whisper.config import read_dims
from backends.whisper.onnx.binding import BoundRun, Target
from backends.whisper.onnx.engine import OnnxNetwork
from tests.backends.whisper.checkpoints import Reference

CPU = Target("CPUExecutionProvider", {}, "cpu")
TOKENS = np.array([[3, 1, 4, 1, 5]], np.int64)


@pytest.fixture(autouse=True)
def _young_objects_only() -> Iterator[None]:
    """Collections look at what the test makes, not at all that the process holds, which takes seconds."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def doubling() -> onnxruntime.InferenceSession:
    """y = x + x."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "doubling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


class OldBindings:
    """Watches a session as if its bindings were those of onnxruntime 1.24: they hold no value that is bound to an
    input."""

    def __init__(self, session: onnxruntime.InferenceSession, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs = 0
        self._bound: dict[int, list[weakref.ref[Any]]] = {}
        self._kept: list[Any] = []  # so that no two bindings share an id
        self._session, self._make, self._run = session, session.io_binding, session.run_with_iobinding
        monkeypatch.setattr(session, "io_binding", self._binding)
        monkeypatch.setattr(session, "run_with_iobinding", self._run_checked)

    def _binding(self) -> Any:
        binding = self._make()
        values: list[weakref.ref[Any]] = []
        self._bound[id(binding)] = values
        self._kept.append(binding)
        bind = binding._iobinding.bind_ortvalue_input

        def bind_and_forget(name: str, value: onnxruntime.OrtValue) -> None:
            bind(name, value._ortvalue)
            values.append(weakref.ref(value))

        binding.bind_ortvalue_input = bind_and_forget
        return binding

    def _run_checked(self, binding: Any) -> None:
        gc.collect()
        values = self._bound.pop(id(binding), None)
        assert values is not None, "a binding was run a second time: that spoils the outputs of its first run"
        assert values
        assert all(value() is not None for value in values), "a value was freed before the run that reads it"
        self.runs += 1
        self._run(binding)


def test_arrays_that_only_the_run_knows_are_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    session = doubling()
    watched = OldBindings(session, monkeypatch)
    run = BoundRun(session, CPU)
    run.input("x", np.arange(100_000, dtype=np.float32))
    gc.collect()
    np.full(100_000, np.nan, np.float32)  # takes the memory if it was given back
    run.output("y")
    assert np.array_equal(run.run()["y"].numpy(), 2 * np.arange(100_000, dtype=np.float32))
    assert watched.runs == 1


def test_outputs_are_their_askers_whatever_runs_next() -> None:
    session = doubling()
    outputs = []
    for number in range(20):
        run = BoundRun(session, CPU)
        run.input("x", np.full(1000, number, np.float32))
        run.output("y", device="cpu")
        outputs.append(run.run()["y"])
        del run
        gc.collect()
    assert [float(output.numpy().min()) for output in outputs] == [2.0 * number for number in range(20)]
    assert [float(output.numpy().max()) for output in outputs] == [2.0 * number for number in range(20)]


def test_an_output_can_be_written_into_a_value() -> None:
    session, encoder_output = doubling(), np.zeros(3, np.float32)
    value = CPU.value(encoder_output)
    run = BoundRun(session, CPU)
    run.input("x", np.array([1, 2, 3], np.float32))
    run.output("y", into=value)
    assert run.run()["y"] is value
    assert encoder_output.tolist() == [2, 4, 6]


def test_a_run_that_is_over_holds_no_input() -> None:
    """Outputs may live as long as a request; the caches of the step before must not live with them."""
    session, array = doubling(), np.zeros(3, np.float32)
    run = BoundRun(session, CPU)
    run.input("x", array)
    run.output("y")
    held = weakref.ref(run._inputs[0])
    outputs = run.run()
    gc.collect()
    assert held() is None
    assert len(outputs) == 1


@pytest.mark.parametrize("static", [False, True])
def test_the_network_keeps_what_it_binds(
    multilingual: Reference, static: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoder, prompt, a batch that loses a row, word times: every run of both sessions."""
    network = OnnxNetwork(multilingual.folder, read_dims(multilingual.folder), static=static)
    encoder, decoder = (
        OldBindings(network._encoders[0], monkeypatch),
        OldBindings(network._decoder.session, monkeypatch),
    )
    mels = np.random.default_rng(0).standard_normal((2, network.dims.mels, network.dims.mel_frames)).astype(np.float32)
    encoder_outputs = network.encode(list(mels))
    assert encoder.runs == 2
    decoding = network.decode(encoder_outputs[:1])
    first = decoding.feed(TOKENS)
    kept = first.copy()
    assert np.isfinite(decoding.feed(TOKENS[:, :1])).all()
    assert np.array_equal(first, kept), "logits of one step changed in the next"
    weights = network.cross_weights(encoder_outputs[0], TOKENS[0].tolist(), [(0, 0), (1, 1)])
    assert weights.shape == (2, 5, network.dims.source_positions)
    if not static:
        both = network.decode(encoder_outputs)
        both.feed(np.repeat(TOKENS, 2, axis=0))
        both.select([1])
        assert np.isfinite(both.feed(TOKENS[:, :1])).all()
    assert decoder.runs >= 5


def test_the_caches_of_a_step_are_the_input_of_the_next(multilingual: Reference) -> None:
    """Token by token and all at once are the same."""
    network = OnnxNetwork(multilingual.folder, read_dims(multilingual.folder))
    encoder_output = network.encode([np.random.default_rng(1).standard_normal((80, 3000)).astype(np.float32)])
    whole = network.decode(encoder_output).feed(TOKENS)
    steps = network.decode(encoder_output)
    single = np.concatenate([steps.feed(TOKENS[:, at : at + 1]) for at in range(TOKENS.shape[1])], axis=1)
    assert np.abs(whole - single).max() < 1e-4
