"""Other networks from a folder: segmentation-3.0's seven classes, and speaker encoders on 80 filter banks.

Their weights are random here, but their shapes, and the names of what goes in and comes out, are those of the
published files: segmentation-3.0 (`input_values` [batch, 1, samples] to `logits` [batch, frames, 7]), WeSpeaker's
ResNet34 (`feats` [batch, frames, 80] to `embs` [batch, 256]) and CAM++ (`x` to `embedding`, 192 numbers).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backends.diarization.backend import DiarizationBackend
from backends.diarization.networks import FRAME_SAMPLES, WINDOW_SAMPLES, WholeEncoder, open_encoder
from backends.interface import (
    ASR_SAMPLE_RATE,
    DiarizationRequest,
    ModelFiles,
    ModelUnavailable,
    Placement,
    SpeakerTurns,
)
from tests.support.drive import run

LOUD, STEEP = 0.01, 0.12  # amplitude from which a frame counts as speech, and step from which as that of speaker 2
FRAMES = 589
ENCODERS = [("feats", "embs", 256), ("x", "embedding", 192)]  # WeSpeaker's ResNet34, CAM++


def save(path: Path, nodes: list[onnx.NodeProto], given: tuple, made: tuple, constants: dict[str, np.ndarray]) -> None:
    """given, made: (name, shape) of what goes in and comes out."""
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(given[0], TensorProto.FLOAT, given[1])],
        [helper.make_tensor_value_info(made[0], TensorProto.FLOAT, made[1])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def segmentation(path: Path) -> None:
    """Nobody (class 0) where it is quiet, speaker 2 (class 2) where neighbouring samples are far apart, else speaker 1
    (class 1), out of seven classes."""
    weights, bias = np.zeros((2, 7), np.float32), np.full(7, -9.0, np.float32)
    weights[0, 1:3], weights[1, 2] = 1.0, 5.0
    bias[:3] = LOUD, 0.0, -5.0 * STEEP
    kernels = np.array([[[1.0, 0.0]], [[1.0, -1.0]]], np.float32)  # the sample, and its step to the next
    nodes = [
        helper.make_node("Conv", ["input_values", "kernels"], ["both"], kernel_shape=[2]),
        helper.make_node("Abs", ["both"], ["size"]),
        helper.make_node("MaxPool", ["size"], ["peaks"], kernel_shape=[990], strides=[FRAME_SAMPLES]),
        helper.make_node("Transpose", ["peaks"], ["frames"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["frames", "weights"], ["scores"]),
        helper.make_node("Add", ["scores", "bias"], ["logits"]),
    ]
    shapes = (("input_values", ["batch", 1, "samples"]), ("logits", ["batch", "frames", 7]))
    save(path, nodes, *shapes, {"weights": weights, "bias": bias, "kernels": kernels})


def encoder(path: Path, given: str, made: str, dimensions: int) -> None:
    """The mean over time through random weights: two spectra give two directions."""
    weights = np.random.default_rng(0).standard_normal((80, dimensions)).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", [given], ["mean"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], [made]),
    ]
    shapes = ((given, ["batch", "frames", 80]), (made, ["batch", dimensions]))
    save(path, nodes, *shapes, {"weights": weights})


def voice(pitch: float, seconds: float) -> np.ndarray:
    time = np.arange(int(seconds * ASR_SAMPLE_RATE)) / ASR_SAMPLE_RATE
    noise = np.random.default_rng(int(pitch)).standard_normal(len(time)) * 0.01
    return (0.2 * np.sin(2 * np.pi * pitch * time) + noise).astype(np.float32)


@pytest.fixture
def talk() -> np.ndarray:
    """A low voice, a pause, a high one, a pause, the low one again, 4 s each."""
    pause = np.zeros(ASR_SAMPLE_RATE, np.float32)
    return np.concatenate([voice(200, 4), pause, voice(3000, 4), pause, voice(200, 4)])


@pytest.mark.parametrize(("given", "made", "dimensions"), ENCODERS)
def test_a_pair_from_a_folder_tells_voices_apart(
    tmp_path: Path, talk: np.ndarray, given: str, made: str, dimensions: int
) -> None:
    segmentation(tmp_path / "model.onnx")  # as the published archive calls it
    encoder(tmp_path / "embedding.onnx", given, made, dimensions)
    backend = DiarizationBackend()
    files = ModelFiles("d", str(tmp_path), tmp_path, tmp_path.parent, tmp_path, {"clustering_threshold": 0.5})
    capabilities = backend.load(files, Placement(threads=1))
    assert capabilities.detail["clustering"] == "agglomeration"  # no plda.dat
    clip = np.concatenate([voice(3000, 3), np.zeros(ASR_SAMPLE_RATE, np.float32)])
    (events,) = run(backend, DiarizationRequest(talk, references=(clip,)))
    (found,) = (event for event in events if isinstance(event, SpeakerTurns))
    assert [turn.speaker for turn in found.turns] == [0, 1, 0]
    for turn, start in zip(found.turns, (0.0, 5.0, 10.0), strict=True):
        assert (turn.start, turn.end) == pytest.approx((start, start + 4.0), abs=0.1)
    assert found.known == (1,)


def test_a_segmentation_has_as_many_frames_as_the_published_one(tmp_path: Path) -> None:
    from backends.diarization.networks import Segmenter

    segmentation(tmp_path / "segmentation.onnx")
    active = Segmenter(tmp_path / "segmentation.onnx", 1).active(np.ones((2, WINDOW_SAMPLES), np.float32))
    assert active.shape == (2, FRAMES, 3)
    assert active.sum() == 2 * FRAMES


def test_an_encoder_that_takes_samples_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["samples"], ["embedding"])]
    save(tmp_path / "e.onnx", nodes, ("samples", ["batch", 192]), ("embedding", ["batch", 192]), {})
    with pytest.raises(ModelUnavailable, match="filter banks"):
        open_encoder(tmp_path / "e.onnx", 1)
    encoder(tmp_path / "f.onnx", "feats", "embs", 256)
    opened = open_encoder(tmp_path / "f.onnx", 1)
    assert isinstance(opened, WholeEncoder)
    assert opened.dimensions == 256
