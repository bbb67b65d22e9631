"""A large encoder is several runs on DirectML: none longer than the bound, together the same as one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backends.whisper.config import ModelDimensions, read_dims
from backends.whisper.onnx import encoder_parts as parts_module
from backends.whisper.onnx import engine as onnx_engine
from backends.whisper.onnx import graphs
from backends.whisper.onnx.encoder_parts import RUN_OPERATIONS, encoder_parts, layer_operations
from backends.whisper.onnx.engine import OnnxNetwork
from tests.backends.whisper.checkpoints import Reference

# Published shapes: width, layers.
SHAPES = {"tiny": (384, 4), "base": (512, 6), "small": (768, 12), "medium": (1024, 24), "large": (1280, 32)}


def dims_of(name: str) -> ModelDimensions:
    width, layers = SHAPES[name]
    return ModelDimensions(
        width, 80, layers, width // 64, 4 * width, layers, width // 64, 4 * width, 51865, 1500, 448, "gelu", True
    )


@pytest.mark.parametrize(("name", "count"), [("tiny", 1), ("base", 1), ("small", 2), ("medium", 6), ("large", 12)])
def test_no_run_is_longer_than_the_bound(name: str, count: int) -> None:
    dims = dims_of(name)
    parts = encoder_parts(dims, static=True)
    layer, cross = layer_operations(dims)
    assert max(len(part.layers) * layer + len(part.cross) * cross for part in parts) <= RUN_OPERATIONS
    assert len(parts) == count
    assert [index for part in parts for index in part.layers] == list(range(dims.encoder_layers))
    assert [index for part in parts for index in part.cross] == list(range(dims.decoder_layers))
    assert [part.is_first for part in parts] == [True, *[False] * (count - 1)]
    assert [part.is_last for part in parts] == [*[False] * (count - 1), True]


def test_on_the_processor_the_encoder_stays_whole() -> None:
    (only,) = encoder_parts(dims_of("large"), static=False)
    assert only.name == "encoder"
    assert len(only.layers) == 32


def test_base_has_the_operations_that_are_known_of_it() -> None:
    """87 GFLOP in the encoder and 9.4 in the cross projections, with the convolutions that are not counted here."""
    dims = dims_of("base")
    layer, cross = layer_operations(dims)
    assert layer * dims.encoder_layers == pytest.approx(84e9, rel=0.05)
    assert cross * dims.decoder_layers == pytest.approx(9.4e9, rel=0.02)


@pytest.mark.parametrize("most", [1.0, 4e8])
def test_parts_give_what_the_whole_gives(
    multilingual: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: float
) -> None:
    """1 operation: every layer is a run of its own."""
    dims = read_dims(multilingual.folder)
    mel = np.random.default_rng(3).standard_normal((dims.mels, dims.mel_frames)).astype(np.float32)
    whole = OnnxNetwork(multilingual.folder, dims, static=True)
    (expected,) = whole.encode([mel])

    def cut(dims: ModelDimensions, *, static: bool) -> list[parts_module.EncoderPart]:
        return encoder_parts(dims, static=static, most=most)

    monkeypatch.setattr(graphs, "encoder_parts", cut)
    monkeypatch.setattr(onnx_engine, "encoder_parts", cut)
    monkeypatch.setattr(
        onnx_engine, "built_graphs", lambda checkpoint, dims, form, cache: build(tmp_path, checkpoint, dims, form)
    )
    several = OnnxNetwork(multilingual.folder, dims, static=True)
    every = dims.encoder_layers + dims.decoder_layers
    assert len(several._encoders) == every if most == 1.0 else 1 < len(several._encoders) < every
    (found,) = several.encode([mel])
    assert found.tensors.keys() == expected.tensors.keys()  # type: ignore[attr-defined]
    for name, value in expected.tensors.items():  # type: ignore[attr-defined]
        assert np.abs(found.tensors[name].numpy() - value.numpy()).max() < 1e-4  # type: ignore[attr-defined]
    assert sum(several.detail()["nodes"]["encoder"].values()) >= sum(whole.detail()["nodes"]["encoder"].values())


def build(folder: Path, checkpoint, dims: ModelDimensions, form) -> Path:  # type: ignore[no-untyped-def]
    graphs.write_encoder(folder, checkpoint, dims, form)
    graphs.write_decoder(folder, checkpoint, dims, form)
    return folder


def test_shapes_do_not_change_the_names() -> None:
    dims = replace(dims_of("small"), encoder_layers=1, decoder_layers=1)
    assert [part.name for part in encoder_parts(dims, static=True, most=1.0)] == ["encoder", "encoder-1"]
