"""Random checkpoints, and the miniature in a folder that may be written to, made once per session."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from backends.whisper.engine import Whisper, load_whisper
from tests.backends.whisper.checkpoints import Reference, make_checkpoint

MINIATURE = Path(__file__).parents[2] / "data" / "whisper_tiny"
SHAPES = {
    "multilingual": {},
    "english-only": {"multilingual": False, "seed": 1},
    "128-mels-sharded": {
        "num_mel_bins": 128,
        "shards": "100KB",
        "decoder_layers": 3,
        "encoder_attention_heads": 4,
        "seed": 2,
    },
}


@pytest.fixture(scope="session", params=SHAPES)
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return make_checkpoint(tmp_path_factory.mktemp(request.param), **SHAPES[request.param])


@pytest.fixture(scope="session")
def multilingual(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return make_checkpoint(tmp_path_factory.mktemp("multilingual"), seed=3)


@pytest.fixture(scope="session")
def noise() -> np.ndarray:
    """Three seconds at 16 kHz."""
    return (np.random.default_rng(0).standard_normal(48_000) * 0.1).astype(np.float32)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature in the published layout."""
    target = tmp_path_factory.mktemp("published") / "whisper"
    shutil.copytree(MINIATURE, target)
    return target


@pytest.fixture(scope="session")
def plain(published: Path) -> Whisper:
    return load_whisper(published)
