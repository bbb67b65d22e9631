"""How a backend's watermark detector is started: which deployments mark their speech, and the child for one of them.

The detector is a short-lived process: it needs torch and the mark's networks, and neither a loaded model nor a worker.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from app.config.deployments import Deployment
from backends import children
from backends.weights import model_folder


@dataclass(frozen=True, slots=True)
class DetectorChild:
    """What starts a detector. stdin: the key to compare with, which every local user could read on a command line."""

    command: list[str]
    environment: dict[str, str]
    stdin: bytes


def marking(deployments: Iterable[Deployment], models_dir: Path) -> list[Deployment]:
    """Select the deployments that mark their speech; if the networks of some are on disk, only these."""
    marked = [d for d in deployments if d.info.detector and d.options.get("watermark", True)]
    return [d for d in marked if model_folder(models_dir, str(d.options["watermark_model"])).is_dir()] or marked


def detector_child(deployment: Deployment, models_dir: Path, file: Path, *, rate: int | None = None) -> DetectorChild:
    """Build the child that looks for the mark in `file`, audio or samples as .npy. rate: Hz of such samples."""
    options = deployment.options
    arguments = [str(file), "--models-dir", str(models_dir.resolve()), "--model", str(options["watermark_model"])]
    arguments += ["--user-dir", platformdirs.user_config_dir("speech-gateway", appauthor=False)]
    arguments += ["--statistics", str(options.get("watermark_statistics", "batch"))]
    arguments += ["--rate", str(rate)] if rate is not None else []
    key = str(options.get("watermark_key") or "")
    arguments += ["--key-from-stdin"] if key else []
    return DetectorChild(
        children.command(deployment.info.detector, *arguments, python=deployment.python),
        children.environment(threads=1, offline=True),
        key.encode("utf-8"),
    )
