"""Where the reference data of CSM lies, and folders made of it."""

from __future__ import annotations

import shutil
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "data" / "csm"
TINY8, MIMI, MARK = DATA / "tiny8", DATA / "mimi_tiny", DATA / "silentcipher_tiny"
KEY = (212, 1, 146, 56, 201)


def copy_tiny8(folder: Path, weights: str, config: str) -> Path:
    """A model folder with the weights of one layout and the configuration of one vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(TINY8 / f"config_{config}.json", folder / "config.json")
    shutil.copy(TINY8 / f"weights_{weights}.safetensors", folder / "model.safetensors")
    return folder
