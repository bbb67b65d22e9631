"""Tiny LLASA parts laid out as folders on disk, from the parity data."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.backends.llasa.folders import DATA, write_codec

with warnings.catch_warnings():
    # Transformers imports whatever quantisation library is installed, and some of those warn.
    warnings.simplefilter("ignore")
    import peft  # noqa: F401
    import transformers.modeling_utils  # noqa: F401


@pytest.fixture(scope="session")
def codec_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_codec(tmp_path_factory.mktemp("codec"), load_file(DATA / "codec" / "model.safetensors"))


@pytest.fixture(scope="session")
def codec_tensors() -> dict[str, torch.Tensor]:
    return load_file(DATA / "codec" / "model.safetensors")


@pytest.fixture(scope="session")
def codec_expected() -> dict[str, np.ndarray]:
    return dict(np.load(DATA / "codec_expected.npz"))


@pytest.fixture(scope="session")
def lm_folder() -> Path:
    return DATA / "lm"


@pytest.fixture(scope="session")
def lm_expected() -> dict[str, Any]:
    return json.loads((DATA / "lm_expected.json").read_text(encoding="utf-8"))
