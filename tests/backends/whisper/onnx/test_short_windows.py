"""Windows shorter than the model's own: the reference encoder's values on the same frames, and decoded in one batch."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch

from backends.whisper.config import read_dims
from backends.whisper.onnx.decoding import OnnxEncoderOutput
from backends.whisper.onnx.engine import OnnxNetwork
from tests.backends.whisper.checkpoints import Reference

FRAMES = 400


def short_reference(reference: Reference, mel: np.ndarray) -> np.ndarray:
    """Cross values of the first decoder layer, [heads, positions, d], of an encoder that was cut to the window."""
    encoder = deepcopy(reference.model.model.encoder)
    positions = mel.shape[1] // 2
    encoder.config.max_source_positions = encoder.max_source_positions = positions
    encoder.embed_positions = torch.nn.Embedding.from_pretrained(encoder.embed_positions.weight[:positions])
    attention = reference.model.model.decoder.layers[0].encoder_attn
    with torch.no_grad():
        value = attention.v_proj(encoder(torch.from_numpy(mel)[None]).last_hidden_state)[0]
    heads: np.ndarray = value.view(positions, attention.num_heads, -1).transpose(0, 1).numpy()
    return heads


def test_a_short_window_is_what_the_reference_makes_of_it(multilingual: Reference) -> None:
    dims = read_dims(multilingual.folder)
    mel = np.random.default_rng(3).standard_normal((dims.mels, FRAMES)).astype(np.float32)
    (found,) = OnnxNetwork(multilingual.folder, dims).encode([mel])
    assert isinstance(found, OnnxEncoderOutput)
    value = found.tensors["cross_value.0"].numpy()[0]
    assert value.shape[1] == FRAMES // 2
    assert value == pytest.approx(short_reference(multilingual, mel), abs=1e-4)


def test_short_windows_are_decoded_together_as_they_are_alone(multilingual: Reference) -> None:
    dims = read_dims(multilingual.folder)
    network = OnnxNetwork(multilingual.folder, dims)
    mels = np.random.default_rng(4).standard_normal((2, dims.mels, FRAMES)).astype(np.float32)
    outputs = network.encode(list(mels))
    tokens = np.array([[5, 6, 7]] * 2, np.int64)
    together = network.decode(outputs).feed(tokens)
    for row, output in enumerate(outputs):
        assert together[row] == pytest.approx(network.decode([output]).feed(tokens[:1])[0], abs=1e-4)


def test_only_dynamic_graphs_take_them(multilingual: Reference) -> None:
    dims = read_dims(multilingual.folder)
    assert OnnxNetwork(multilingual.folder, dims).short_windows
    assert not OnnxNetwork(multilingual.folder, dims, static=True).short_windows
