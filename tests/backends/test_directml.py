"""Whisper on DirectML against Whisper on the processor, on machines that have an adapter for it.

The graphs' form is held everywhere by tests/backends/whisper/test_dml_graph.py; here the adapter computes them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from backends import dxgi
from backends.whisper.engine import Whisper, load_whisper
from tests.backends.whisper.spoken import Recording, record

MINIATURE = Path(__file__).parents[1] / "data" / "whisper_tiny"
STEPS = 8  # tokens; a driver compiles its programs for the first of them


def _device() -> str:
    """The first adapter as the project names it, "" where there is none."""
    try:
        return next((f"directml:{adapter.number}" for adapter in dxgi.adapters()), "")
    except OSError:
        return ""


DEVICE = _device()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DEVICE, reason="no adapter of DirectX 12, which Windows with a graphics card has"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, for graphs are built beside the weights."""
    return Path(shutil.copytree(MINIATURE, tmp_path_factory.mktemp("directml") / "miniature"))


@pytest.fixture(scope="module")
def recording() -> Recording:
    return record(1, seed=100)


@pytest.fixture(scope="module", params=["float32", "float16"])
def on_adapter(request: pytest.FixtureRequest, folder: Path) -> Whisper:
    return load_whisper(folder, device=DEVICE, dtype=request.param)


def test_no_node_is_left_to_the_processor(on_adapter: Whisper) -> None:
    nodes = on_adapter.network.detail()["nodes"]
    assert {name: set(providers) for name, providers in nodes.items()} == {
        "encoder": {"DmlExecutionProvider"},
        "decoder": {"DmlExecutionProvider"},
    }


def test_the_adapter_says_what_the_processor_says(on_adapter: Whisper, folder: Path, recording: Recording) -> None:
    """The same tokens, and logits as near as the number format allows."""
    on_processor = load_whisper(folder)
    tokens = on_processor.greedy_tokens(recording.samples, max_new_tokens=STEPS)
    assert on_adapter.greedy_tokens(recording.samples, max_new_tokens=STEPS) == tokens
    expected = on_processor.logits(recording.samples, tokens)
    off = np.abs(on_adapter.logits(recording.samples, tokens) - expected).max()
    assert off < (1e-3 if on_adapter.network.dtype == "float32" else 0.02) * np.abs(expected).max()
