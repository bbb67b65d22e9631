"""Where the parity data lies, and folders written from it for the tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

DATA = Path(__file__).resolve().parents[2] / "data" / "llasa"


def write_codec(folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any] | None = None) -> Path:
    """A codec folder with the given tensors; config: replaces the fixture's."""
    folder.mkdir(parents=True, exist_ok=True)
    if config is None:
        shutil.copy(DATA / "codec_config.json", folder / "config.json")
        shutil.copy(DATA / "codec_semantic_config.json", folder / "semantic_config.json")
    else:
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder
