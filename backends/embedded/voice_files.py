"""Which files the neural voices need, out of packages and out of the models folder.

The packaged ones and their digests are `backends.model_sets`'; further Kokoro voices and Piper voices are taken from
the models folder. Knows no inference engine.
"""

from __future__ import annotations

from pathlib import Path

from backends.model_sets import VOICE_FILES

PIPER_JOE = VOICE_FILES["en_US-joe-medium.onnx"]
PIPER_JOE_CONFIG = VOICE_FILES["en_US-joe-medium.onnx.json"]
KOKORO_MODEL = VOICE_FILES["kokoro-v1.0.int8.onnx"]
KOKORO_STYLES = VOICE_FILES["voices_ja.npz"]
KOKORO_VOCABULARY = VOICE_FILES["vocab.json"]
JOE_FILES = (PIPER_JOE, PIPER_JOE_CONFIG)
KOKORO_FILES = (KOKORO_MODEL, KOKORO_STYLES, KOKORO_VOCABULARY)


def kokoro_style_files(models_dir: Path) -> list[Path]:
    """Kokoro style tables that were put into the models folder: models/kokoro/voices/NAME.bin, sorted by name."""
    return sorted((models_dir / "kokoro" / "voices").glob("*.bin"))


def piper_model_files(models_dir: Path) -> list[Path]:
    """Piper models of the models folder, models/piper/NAME.onnx, that have their NAME.onnx.json beside them."""
    found = sorted((models_dir / "piper").glob("*.onnx"))
    return [model for model in found if piper_config_file(model).is_file()]


def piper_config_file(model: Path) -> Path:
    return model.with_name(f"{model.name}.json")
