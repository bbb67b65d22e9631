"""An encoder on a provider that is loaded as a library, the decoder on the processor. The provider's device is the
processor's own, which onnxruntime lists beside those of libraries: sessions take it by the same call."""

from __future__ import annotations

import numpy as np
import pytest

from backends import windows_ml
from backends.interface import ModelUnavailable
from backends.onnx_runtime import onnxruntime
from backends.whisper.config import read_dims
from backends.whisper.engine import load_whisper
from backends.whisper.onnx import engine as onnx_engine
from backends.whisper.onnx.engine import OnnxNetwork
from tests.backends.whisper.checkpoints import Reference

TOKENS = [1, 5, 9, 3]
DEVICE = "windowsml:amdgpu"


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names that were asked for."""
    asked: list[str] = []
    devices = tuple(device for device in onnxruntime.get_ep_devices() if device.ep_name == "CPUExecutionProvider")

    def plugin_devices(name: str) -> tuple[object, ...]:
        asked.append(name)
        return devices

    monkeypatch.setattr(windows_ml, "plugin_devices", plugin_devices)
    return asked


def test_it_answers_what_the_processor_does(multilingual: Reference, noise: np.ndarray, plugin: list[str]) -> None:
    model = load_whisper(multilingual.folder)
    expected = model.logits(noise, TOKENS)
    words = model.greedy_tokens(noise, max_new_tokens=20)
    apart = load_whisper(multilingual.folder, device=DEVICE)
    assert plugin == ["amdgpu"]
    assert np.abs(apart.logits(noise, TOKENS) - expected).max() < 1e-4
    assert apart.greedy_tokens(noise, max_new_tokens=20) == words
    assert apart.network.device == DEVICE


def test_the_encoder_has_fixed_shapes_and_the_decoder_grows(multilingual: Reference) -> None:
    network = OnnxNetwork(multilingual.folder, read_dims(multilingual.folder), device=DEVICE, threads=4)
    assert not network.short_windows, "a provider compiles a graph for each shape"
    assert network.detail()["graph"] == "dynamic"
    assert network.replicas(4) == [network], "one device, one encoder"


def test_int8_is_the_decoders(multilingual: Reference, noise: np.ndarray) -> None:
    network = OnnxNetwork(multilingual.folder, read_dims(multilingual.folder), device=DEVICE, dtype="int8")
    assert list(network.detail()["products"]) == ["decoder"]
    exact, apart = load_whisper(multilingual.folder), load_whisper(multilingual.folder, device=DEVICE, dtype="int8")
    expected, logits = exact.logits(noise, TOKENS), apart.logits(noise, TOKENS)
    assert 0 < np.abs(logits - expected).max() < 0.08 * np.abs(expected).max()
    (wanted,), (found,) = exact.encode([noise]), apart.encode([noise])
    for name, value in wanted.tensors.items():  # type: ignore[attr-defined]
        assert np.abs(found.tensors[name].numpy() - value.numpy()).max() < 1e-4  # type: ignore[attr-defined]


def test_float16_is_refused(multilingual: Reference) -> None:
    with pytest.raises(ModelUnavailable, match="float16 is for DirectML"):
        OnnxNetwork(multilingual.folder, read_dims(multilingual.folder), device=DEVICE, dtype="float16")


def test_a_provider_that_takes_nothing_is_refused(multilingual: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_engine, "nodes_by_provider", lambda sessions: {"OtherExecutionProvider": 9})
    with pytest.raises(ModelUnavailable, match=f"took no part of Whisper's encoder on {DEVICE}"):
        OnnxNetwork(multilingual.folder, read_dims(multilingual.folder), device=DEVICE)
