"""Random checkpoints, made once per session."""

from __future__ import annotations

import numpy as np
import pytest

from tests.backends.whisper.checkpoints import Reference, make_checkpoint

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
