"""The tiny DIFFA of tests/data/diffa: three folders in the published layouts, with what the reference made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from backends.diffa.model import DiffaModel, load_diffa
from tests.backends.diffa.folders import DATA


@pytest.fixture(scope="session")
def data() -> Path:
    return DATA


@pytest.fixture(scope="session")
def model() -> DiffaModel:
    return load_diffa(DATA / "llm", DATA / "whisper", DATA / "adapter")


@pytest.fixture(scope="session")
def samples() -> np.ndarray:
    return sf.read(DATA / "inputs" / "audio_a.wav", dtype="float32")[0]


@pytest.fixture(scope="session")
def expected() -> dict[str, np.ndarray]:
    return dict(np.load(DATA / "expected" / "audio_a.npz"))


@pytest.fixture(scope="session")
def case() -> dict[str, Any]:
    return json.loads((DATA / "inputs" / "prompts.json").read_text(encoding="utf-8"))["cases"]["a"]
